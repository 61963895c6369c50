//! The full screen of `posta chat`: what is on it, and what keys do. Tasks, clocks and the terminal are the driver's.

mod view;

use std::collections::VecDeque;

use posta_protocol::invitation::Link;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::show::{shown, state_name};
use crate::session::Said;
use crate::session::event::{ClientEvent, ContactId, ContactInfo, ContactState, HealthLevel, MessageState};

/// Lines that are kept for one contact; the oldest go.
const MAX_LINES: usize = 1000;
/// Characters that the input takes.
const MAX_INPUT: usize = 10_000;

/// Everything on the screen.
#[derive(Debug)]
pub(super) struct Screen {
    contacts: Vec<Entry>,
    selected: usize,
    input: String,
    /// Lines from the end that are out of sight.
    scroll: usize,
    mode: Mode,
    profile: String,
    /// Whether a relay answers, once that is known.
    online: Option<bool>,
    /// How packets came back lately.
    health: HealthLevel,
    /// The last thing that concerns no contact alone.
    notice: String,
}

/// One contact.
#[derive(Debug)]
struct Entry {
    info: ContactInfo,
    lines: VecDeque<Line>,
    unread: usize,
}

#[derive(Debug)]
enum Line {
    Mine { number: u64, text: String, state: MessageState },
    Theirs { number: u64, text: String },
    Note(String),
}

/// What the input is for.
#[derive(Debug, PartialEq, Eq)]
enum Mode {
    /// A message to the selected contact.
    Talk,
    /// The name of one who is to be invited.
    Inviting,
    /// An invitation is being made.
    Waiting,
    /// An invitation is shown.
    Invitation(String),
    /// A link that is to be followed.
    Joining,
    /// The name of the one whose link it is.
    Naming(String),
    /// The code of the selected contact is shown.
    Code,
}

/// What the user wants done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// Nothing but to see what has changed.
    Nothing,
    /// The end.
    End,
    /// A message to be sent.
    Send(ContactId, String),
    /// An invitation for a contact of this name.
    Invite(String),
    /// A link to be followed, and the name of the contact.
    Join(String, String),
}

impl Screen {
    /// With these contacts, at the one that was asked for.
    pub(super) fn new(contacts: Vec<ContactInfo>, at: Option<ContactId>, profile: String) -> Self {
        let selected = contacts.iter().position(|c| Some(c.id) == at).unwrap_or(0);
        let contacts = contacts.into_iter().map(Entry::new).collect();
        let (input, notice) = (String::new(), String::new());
        Self {
            contacts,
            selected,
            input,
            scroll: 0,
            mode: Mode::Talk,
            profile,
            online: None,
            health: HealthLevel::Unknown,
            notice,
        }
    }

    /// What was said before, in the order of its time.
    pub(super) fn recall(&mut self, contact: ContactId, all: Vec<Said>) {
        let Some(entry) = self.entry(contact) else { return };
        for said in all {
            let text = shown(&String::from_utf8_lossy(&said.body));
            let state = if said.delivered { MessageState::Delivered } else { MessageState::Queued };
            entry.push(match said.ours {
                true => Line::Mine { number: said.number, text, state },
                false => Line::Theirs { number: said.number, text },
            });
        }
    }

    /// What the client says now of its contacts; lines stay.
    pub(super) fn renew(&mut self, contacts: Vec<ContactInfo>) {
        let selected = self.current().map(|e| e.info.id);
        let mut before = std::mem::take(&mut self.contacts);
        for info in contacts {
            let known = before.iter().position(|e| e.info.id == info.id).map(|i| before.swap_remove(i));
            self.contacts.push(match known {
                Some(entry) => Entry { info, ..entry },
                None => Entry::new(info),
            });
        }
        self.selected = self.contacts.iter().position(|e| Some(e.info.id) == selected).unwrap_or(0);
    }

    /// Goes to a contact.
    pub(super) fn select(&mut self, contact: ContactId) {
        if let Some(index) = self.contacts.iter().position(|e| e.info.id == contact) {
            (self.selected, self.scroll) = (index, 0);
            self.read();
        }
    }

    fn current(&self) -> Option<&Entry> {
        self.contacts.get(self.selected)
    }

    fn entry(&mut self, contact: ContactId) -> Option<&mut Entry> {
        self.contacts.iter_mut().find(|e| e.info.id == contact)
    }

    fn read(&mut self) {
        if let Some(entry) = self.contacts.get_mut(self.selected) {
            entry.unread = 0;
        }
    }

    /// An invitation is there, or couldn't be made.
    pub(super) fn invited(&mut self, link: Result<String, String>) {
        match link {
            Ok(link) => self.mode = Mode::Invitation(link),
            Err(why) => (self.mode, self.notice) = (Mode::Talk, why),
        }
    }

    /// Something went wrong, or is to be known.
    pub(super) fn say(&mut self, notice: impl ToString) {
        self.notice = notice.to_string();
    }

    /// A message was taken, or not.
    pub(super) fn sent(&mut self, contact: ContactId, text: String, taken: Result<u64, String>) {
        let Some(entry) = self.entry(contact) else { return };
        match taken {
            Ok(number) => entry.push(Line::Mine { number, text: shown(&text), state: MessageState::Queued }),
            Err(why) => {
                entry.push(Line::Note(format!("not sent: {why}")));
                self.input = text;
            }
        }
        self.scroll = 0;
    }

    /// Takes in what happened. Returns whether the contacts are to be asked for anew.
    pub(super) fn event(&mut self, event: &ClientEvent) -> bool {
        match event {
            ClientEvent::Ready => self.online = Some(true),
            ClientEvent::Health(health) => self.health = health.level,
            ClientEvent::Message { contact, number, body } => {
                let (number, text) = (*number, shown(&String::from_utf8_lossy(body)));
                let selected = self.current().is_some_and(|e| e.info.id == *contact);
                if let Some(entry) = self.entry(*contact) {
                    // The history may have it already, where an earlier run ended before it was read.
                    let known = |line: &Line| matches!(line, Line::Theirs { number: n, .. } if *n == number);
                    if !entry.lines.iter().any(known) {
                        entry.push(Line::Theirs { number, text });
                    }
                    entry.unread += usize::from(!selected);
                }
            }
            ClientEvent::State { contact, message, state: new } => {
                let Some(entry) = self.entry(*contact) else { return false };
                let mine = entry.lines.iter_mut().rev().find_map(|line| match line {
                    Line::Mine { number, state, .. } if *number == message.0 => Some(state),
                    _ => None,
                });
                match mine {
                    Some(state) => *state = *new,
                    None if *new == MessageState::Delivered => {
                        entry.push(Line::Note(format!("message {} of before is delivered", message.0)));
                    }
                    None => {}
                }
            }
            ClientEvent::Connected { contact } => {
                self.note(*contact, "connected: Ctrl-T shows a code to compare by another way");
                if matches!(self.mode, Mode::Invitation(_)) {
                    self.mode = Mode::Talk;
                    self.select(*contact);
                }
                return true;
            }
            ClientEvent::Disappeared { contact, ours, number } => {
                if let Some(entry) = self.entry(*contact) {
                    entry.lines.retain(|line| match line {
                        Line::Mine { number: n, .. } => !ours || n != number,
                        Line::Theirs { number: n, .. } => *ours || n != number,
                        Line::Note(_) => true,
                    });
                }
            }
            ClientEvent::Renewed { contact } => {
                self.note(*contact, "the conversation has begun anew: Ctrl-T shows the new code to compare");
                return true;
            }
            ClientEvent::JoinFailed { contact, reason } => {
                self.note(*contact, &reason.to_string());
                self.say(reason);
                return true;
            }
            ClientEvent::InviteFailed { reason, .. } => {
                self.say(reason);
                return true;
            }
            ClientEvent::Warning(warning) => {
                if matches!(warning, crate::session::event::Warning::Offline) {
                    self.online = Some(false);
                }
                self.say(warning);
            }
            _ => {}
        }
        false
    }

    fn note(&mut self, contact: ContactId, text: &str) {
        if let Some(entry) = self.entry(contact) {
            entry.push(Line::Note(text.to_owned()));
        }
    }

    /// Takes what was pasted.
    pub(super) fn paste(&mut self, text: &str) {
        text.chars().for_each(|c| self.put(if c == '\n' || c == '\r' { ' ' } else { c }));
    }

    fn put(&mut self, c: char) {
        // Where something is shown there is nothing to be written.
        let shows = matches!(self.mode, Mode::Waiting | Mode::Invitation(_) | Mode::Code);
        if !shows && !c.is_control() && self.input.chars().count() < MAX_INPUT {
            self.input.push(c);
        }
    }

    /// Takes a key.
    pub(super) fn key(&mut self, key: KeyEvent) -> Wish {
        if key.kind == KeyEventKind::Release {
            return Wish::Nothing;
        }
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c' | 'q') if control => return Wish::End,
            KeyCode::Char('d') if control && self.input.is_empty() => return Wish::End,
            KeyCode::Char('u') if control => self.input.clear(),
            KeyCode::Char('n') if control => self.begin(Mode::Inviting),
            KeyCode::Char('o') if control => self.begin(Mode::Joining),
            KeyCode::Char('t') if control => self.begin(Mode::Code),
            KeyCode::Char(c) if !control => self.put(c),
            KeyCode::Backspace => drop(self.input.pop()),
            KeyCode::Esc => self.begin(Mode::Talk),
            KeyCode::Tab | KeyCode::Down => self.step(1),
            KeyCode::BackTab | KeyCode::Up => self.step(self.contacts.len().saturating_sub(1)),
            KeyCode::PageUp => {
                let most = self.current().map_or(0, |e| e.lines.len());
                self.scroll = (self.scroll + 5).min(most);
            }
            KeyCode::PageDown => self.scroll = self.scroll.saturating_sub(5),
            KeyCode::Enter => return self.enter(),
            _ => {}
        }
        Wish::Nothing
    }

    /// Another use of the input. An invitation that is being made goes on.
    fn begin(&mut self, mode: Mode) {
        if self.mode != Mode::Waiting {
            self.notice.clear();
            self.input.clear();
            self.mode = mode;
        }
    }

    fn step(&mut self, by: usize) {
        if self.mode == Mode::Talk || self.mode == Mode::Code {
            self.selected = (self.selected + by) % self.contacts.len().max(1);
            self.scroll = 0;
            self.read();
        }
    }

    fn enter(&mut self) -> Wish {
        let input = self.input.trim().to_owned();
        match &self.mode {
            Mode::Waiting => {}
            Mode::Invitation(_) | Mode::Code => self.begin(Mode::Talk),
            _ if input.is_empty() => {}
            Mode::Talk => {
                let Some(entry) = self.current() else {
                    self.say("there is nobody yet: Ctrl-N invites, Ctrl-O follows a link");
                    return Wish::Nothing;
                };
                if entry.info.state != ContactState::Connected {
                    self.say(format!("this contact is {}: wait until it is connected", state_name(entry.info.state)));
                    return Wish::Nothing;
                }
                let to = entry.info.id;
                return Wish::Send(to, std::mem::take(&mut self.input));
            }
            Mode::Inviting => {
                self.begin(Mode::Waiting);
                return Wish::Invite(input);
            }
            Mode::Joining => match input.parse::<Link>() {
                Ok(_) => self.begin(Mode::Naming(input)),
                Err(e) => self.say(e),
            },
            Mode::Naming(link) => {
                let link = link.clone();
                self.begin(Mode::Talk);
                return Wish::Join(link, input);
            }
        }
        Wish::Nothing
    }
}

impl Entry {
    const fn new(info: ContactInfo) -> Self {
        Self { info, lines: VecDeque::new(), unread: 0 }
    }

    fn push(&mut self, line: Line) {
        self.lines.push_back(line);
        if self.lines.len() > MAX_LINES {
            self.lines.pop_front();
        }
    }

    fn name(&self) -> String {
        if self.info.name.is_empty() { format!("contact {}", self.info.id.0) } else { shown(&self.info.name) }
    }
}

#[cfg(test)]
mod tests;
