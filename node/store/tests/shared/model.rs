//! What a store does, said once more and as plainly as possible: no windows, no buckets, no totals that are kept.

use std::collections::{BTreeMap, BTreeSet};

use posta_protocol::admission::QueueKind;
use posta_protocol::answer::Info;
use posta_protocol::ids::{BlobId, Hash, MessageId, QueueId, WriterId};
use posta_store::Outcome::{Created, Done, Empty, Refused, Repeated};
use posta_store::Refusal::{BadCapability, Conflict, Expired, Full, Gone, NoSpace, OutOfWindow, Suspended, Taken};
use posta_store::{Limits, MAX_SEQUENCE_AHEAD, Outcome, QueueOp, Refusal};

struct Queue {
    kind: QueueKind,
    suspended: bool,
    writer: WriterId,
    secured: Option<WriterId>,
    deleted: bool,
    used: u32,
    accepted: BTreeSet<u64>,
    acked: u64,
    held: BTreeMap<u64, (u32, Box<[u8]>)>,
    /// Every message's id, of a contact queue.
    ids: Vec<MessageId>,
}

impl Queue {
    fn highest(&self) -> u64 {
        self.accepted.last().copied().unwrap_or(0)
    }

    fn through(&self) -> u64 {
        (self.acked + 1..).take_while(|n| self.accepted.contains(n)).last().unwrap_or(self.acked)
    }
}

struct Blob {
    put: WriterId,
    asked: (bool, u32, Box<[u8]>),
    deleted: bool,
    end: u32,
    lock: Option<Hash>,
}

pub struct Model {
    limits: Limits,
    queues: BTreeMap<QueueId, Queue>,
    blobs: BTreeMap<BlobId, Blob>,
}

type Answer = Result<Outcome, Refusal>;

fn hours(d: std::time::Duration) -> u32 {
    d.as_secs().div_ceil(3600) as u32
}

impl Model {
    pub fn new(limits: Limits) -> Self {
        Self { limits, queues: BTreeMap::new(), blobs: BTreeMap::new() }
    }

    pub fn apply(&mut self, hour: u32, op: &QueueOp) -> Outcome {
        match op {
            QueueOp::Create { queue, writer, kind } => self.create(hour, *queue, *writer, *kind),
            QueueOp::Secure { invited, writer } => self.secure(hour, *invited, *writer),
            QueueOp::Send { writer, sequence, body } => self.send(hour, *writer, Err(*sequence), body),
            QueueOp::ContactSend { writer, message, body } => self.send(hour, *writer, Ok(*message), body),
            QueueOp::Info { queue } => {
                let (ttl, quota) = (hours(self.limits.queue_ttl), self.quotas());
                self.use_queue(hour, *queue).map(|q| {
                    Outcome::Info(Info {
                        kind: q.kind,
                        secured: q.secured.is_some(),
                        suspended: q.suspended,
                        retiring: false,
                        held: q.held.len() as u32,
                        room: quota(q.kind) - q.held.len() as u32,
                        highest: q.highest(),
                        acked: q.acked,
                        hours: q.used + ttl + 1 - hour,
                    })
                })
            }
            QueueOp::Suspend { queue } | QueueOp::Resume { queue } => self.use_queue(hour, *queue).map(|q| {
                q.suspended = matches!(op, QueueOp::Suspend { .. });
                Done
            }),
            QueueOp::Extend { queue } => self.use_queue(hour, *queue).map(|_| Done),
            QueueOp::Read { queue, after, skip } => self.use_queue(hour, *queue).map(|q| {
                let mut held = q.held.iter().filter(|(n, (end, _))| *n > after && !skip.contains(n) && hour < *end);
                held.next().map_or(Empty, |(n, (_, body))| Outcome::Message {
                    sequence: *n,
                    body: body.clone(),
                    left: q.held.len() as u32 - 1,
                })
            }),
            QueueOp::Ack { queue, up_to } => self.use_queue(hour, *queue).map(|q| {
                q.acked = q.acked.max((*up_to).min(q.highest()));
                let acked = q.acked;
                q.held.retain(|n, _| *n > acked);
                Done
            }),
            QueueOp::Delete { queue } => match self.use_queue(hour, *queue) {
                Err(Gone) => Ok(Done),
                other => other.map(|q| {
                    q.deleted = true;
                    q.held.clear();
                    Done
                }),
            },
            QueueOp::BlobPut { put, get, one_time, ttl, body } => {
                let ttl = hours((*ttl).min(self.limits.blob_ttl));
                self.blob_put(hour, *put, *get, (*one_time, ttl, body.clone()))
            }
            QueueOp::BlobGet { get, lock } => self.blobs.get_mut(get).ok_or(BadCapability).and_then(|b| {
                if b.deleted {
                    return Err(Gone);
                } else if hour >= b.end {
                    return Err(Expired);
                } else if b.asked.0 && b.lock.get_or_insert(*lock) != lock {
                    return Err(Taken);
                }
                Ok(Outcome::Blob { body: b.asked.2.clone() })
            }),
            QueueOp::BlobDelete { put } => {
                self.blobs.values_mut().find(|b| b.put == *put).ok_or(BadCapability).and_then(|b| {
                    if !b.deleted && hour >= b.end {
                        return Err(Expired);
                    }
                    b.deleted = true;
                    Ok(Done)
                })
            }
        }
        .unwrap_or_else(Refused)
    }

    pub fn sweep(&mut self, hour: u32) {
        let end = hours(self.limits.queue_ttl) + 1;
        self.queues.retain(|_, q| hour < q.used + end);
        for q in self.queues.values_mut() {
            q.held.retain(|_, (end, _)| hour < *end);
        }
        self.blobs.retain(|_, b| hour < b.end);
    }

    fn quotas(&self) -> impl Fn(QueueKind) -> u32 + use<> {
        let (plain, contact, bulk) = (self.limits.queue_quota, self.limits.contact_quota, self.limits.bulk_quota);
        move |kind| match kind {
            QueueKind::Plain => plain,
            QueueKind::Contact => contact,
            QueueKind::Bulk => bulk,
        }
    }

    fn bytes(&self) -> usize {
        let messages = self.queues.values().flat_map(|q| q.held.values().map(|(_, body)| body.len() + 128));
        let blobs = self.blobs.values().filter(|b| !b.deleted).map(|b| b.asked.2.len() + 128);
        messages.chain(blobs).sum()
    }

    fn owner(&self, writer: WriterId) -> Option<QueueId> {
        self.queues.iter().find(|(_, q)| q.writer == writer || q.secured == Some(writer)).map(|(id, _)| *id)
    }

    fn use_queue(&mut self, hour: u32, queue: QueueId) -> Result<&mut Queue, Refusal> {
        let end = hours(self.limits.queue_ttl) + 1;
        let q = self.queues.get_mut(&queue).ok_or(BadCapability)?;
        if q.deleted {
            return Err(Gone);
        } else if hour >= q.used + end {
            return Err(Expired);
        }
        q.used = q.used.max(hour);
        Ok(q)
    }

    fn create(&mut self, hour: u32, queue: QueueId, writer: WriterId, kind: QueueKind) -> Answer {
        if let Some(q) = self.queues.get(&queue) {
            let same = q.writer == writer && q.kind == kind;
            let used = q.used;
            let outcome = self.use_queue(hour, queue).map(|_| ());
            if outcome.is_ok() && !same {
                self.queues.get_mut(&queue).unwrap().used = used; // A refusal changes nothing.
                return Err(Conflict);
            }
            return outcome.map(|()| Done);
        }
        if self.owner(writer).is_some() {
            return Err(Conflict);
        } else if self.queues.len() as u64 >= self.limits.max_queues {
            return Err(NoSpace);
        }
        let (accepted, held, ids) = (BTreeSet::new(), BTreeMap::new(), Vec::new());
        let (secured, deleted, suspended, used) = (None, false, false, hour);
        let q = Queue { kind, suspended, writer, secured, deleted, used, accepted, acked: 0, held, ids };
        self.queues.insert(queue, q);
        Ok(Created)
    }

    fn secure(&mut self, hour: u32, invited: WriterId, writer: WriterId) -> Answer {
        let queue = self.owner(invited).filter(|q| self.queues[q].writer == invited).ok_or(BadCapability)?;
        let used = self.queues[&queue].used;
        let in_use = self.owner(writer).is_some();
        let q = self.use_queue(hour, queue)?;
        let refusal = match q.secured {
            _ if q.kind == QueueKind::Contact => Conflict,
            Some(other) if other == writer => return Ok(Done),
            Some(_) => Taken,
            None if q.suspended => Suspended,
            None if in_use => Conflict,
            None => {
                q.secured = Some(writer);
                return Ok(Done);
            }
        };
        q.used = used;
        Err(refusal)
    }

    /// `named`: the id that a contact's message has, or else its number.
    fn send(&mut self, hour: u32, writer: WriterId, named: Result<MessageId, u64>, body: &[u8]) -> Answer {
        if body.len() > self.limits.max_body {
            return Err(NoSpace);
        }
        let queue = self.owner(writer).ok_or(BadCapability)?;
        let record = &self.queues[&queue];
        if record.secured.as_ref().unwrap_or(&record.writer) != &writer {
            return Err(BadCapability);
        }
        let quota = self.quotas()(record.kind);
        let (limits, bytes, used) = (self.limits.clone(), self.bytes(), record.used);
        let q = self.use_queue(hour, queue)?;
        let (highest, through) = (q.highest(), q.through());
        // A contact queue's messages have the numbers in the order of their ids.
        let sequence = named.map_or_else(
            |number| number,
            |id| match q.ids.iter().rev().take(64).position(|other| *other == id) {
                Some(back) => highest - back as u64,
                None => highest + 1,
            },
        );
        let last = if q.kind == QueueKind::Bulk { through + 64 } else { highest + MAX_SEQUENCE_AHEAD };
        let answer = |q: &Queue, new| match q.kind {
            QueueKind::Bulk => Outcome::Stored { queue, new, through: q.through(), room: quota - q.held.len() as u32 },
            _ if new => Outcome::Accepted { queue, sequence },
            _ => Repeated { queue },
        };
        let refusal = if (q.kind == QueueKind::Contact) != named.is_ok() {
            Conflict
        } else if sequence == 0 || sequence + 64 <= highest || sequence > last {
            OutOfWindow
        } else if q.accepted.contains(&sequence) {
            match q.held.get(&sequence) {
                Some((end, held)) if hour < *end && **held != *body => Conflict,
                _ => return Ok(answer(q, false)),
            }
        } else if sequence <= q.acked {
            OutOfWindow
        } else if q.suspended {
            Suspended
        } else if q.held.len() as u32 >= quota {
            Full
        } else if (bytes + body.len() + 128) as u64 > limits.disk_quota_bytes {
            NoSpace
        } else {
            let ttl = if q.kind == QueueKind::Bulk { limits.bulk_ttl } else { limits.message_ttl };
            q.accepted.insert(sequence);
            q.ids.extend(named.ok());
            q.held.insert(sequence, (hour + hours(ttl) + 1, body.into()));
            return Ok(answer(q, true));
        };
        q.used = used;
        Err(refusal)
    }

    fn blob_put(&mut self, hour: u32, put: WriterId, get: BlobId, asked: (bool, u32, Box<[u8]>)) -> Answer {
        if let Some(b) = self.blobs.get(&get) {
            return match () {
                () if b.put != put => Err(Conflict),
                () if b.deleted => Err(Gone),
                () if hour >= b.end => Err(Expired),
                () if b.asked != asked => Err(Conflict),
                () => Ok(Done),
            };
        }
        if self.blobs.values().any(|b| b.put == put) {
            return Err(Conflict);
        } else if (self.bytes() + asked.2.len() + 128) as u64 > self.limits.disk_quota_bytes {
            return Err(NoSpace);
        }
        let end = hour + asked.1 + 1;
        self.blobs.insert(get, Blob { put, asked, deleted: false, end, lock: None });
        Ok(Done)
    }
}
