//! Processes and threads on cores.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, sched_setaffinity};

/// A clock tick of `/proc/PID/stat`, as Linux has it for programs.
const TICK_US: f64 = 10_000.0;

/// Lines of a process that nobody has waited for yet.
const LINES: usize = 256;
/// How long a process may take to say what it is waited for.
const LONGEST: Duration = Duration::from_secs(120);

/// Keeps this thread, and those that it starts from now on, on these cores.
pub(crate) fn run_on(cores: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    cores.iter().for_each(|core| set.set(*core));
    sched_setaffinity(None, &set).context("this program may not choose its cores, or there are not two")
}

/// Time that this thread has had a core, in microseconds: whoever else has work to do takes nothing away from it.
pub(crate) fn thread_cpu_us() -> Result<f64> {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").context("/proc/thread-self/schedstat")?;
    let nanoseconds: f64 = stat.split(' ').next().unwrap_or_default().parse()?;
    Ok(nanoseconds / 1e3)
}

/// A process on a core of its own, ended with this value.
pub(crate) struct Process {
    child: Child,
    /// Held open: some end with it.
    _stdin: Option<ChildStdin>,
    /// What it says, line by line; lines that nobody waits for are lost when it has said many.
    said: Receiver<String>,
}

impl Process {
    /// Starts this program again in a role, and waits for a line of its output that has `ready`.
    pub(crate) fn start(core: usize, role: &str, args: &[String]) -> Result<Self> {
        let me = std::env::current_exe().context("this program's path")?;
        let mut child = Command::new("taskset")
            .args(["-c", &core.to_string()])
            .arg(me)
            .arg(role)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("taskset, of util-linux")?;
        let stdin = child.stdin.take();
        let lines = BufReader::new(child.stdout.take().context("its output")?).lines();
        let (say, said) = sync_channel(LINES);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                // Read on, or it would wait for us one day.
                let _ = say.try_send(line);
            }
        });
        let process = Self { child, _stdin: stdin, said };
        process.until("ready").with_context(|| format!("the {role} did not start"))?;
        Ok(process)
    }

    /// Waits, at most two minutes, for a line with these words.
    pub(crate) fn until(&self, words: &str) -> Result<String> {
        loop {
            let line = self.said.recv_timeout(LONGEST).with_context(|| format!("it did not say {words:?}"))?;
            if line.contains(words) {
                return Ok(line);
            }
        }
    }

    /// Memory that it has in RAM, in bytes.
    pub(crate) fn resident(&self) -> Result<u64> {
        resident_of(self.child.id())
    }

    /// CPU time since its start, all threads, in microseconds.
    pub(crate) fn cpu_us(&self) -> Result<f64> {
        cpu_us_of(self.child.id())
    }
}

/// Memory that a process has in RAM, in bytes.
pub(crate) fn resident_of(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024)
}

/// CPU time of a process since its start, all threads, in microseconds; the kernel counts it in ticks of 10 ms.
pub(crate) fn cpu_us_of(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after = stat.rsplit_once(')').context("/proc/PID/stat")?.1;
    let fields: Vec<_> = after.split_whitespace().skip(11).take(2).map(str::parse::<f64>).collect::<Result<_, _>>()?;
    Ok(fields.iter().sum::<f64>() * TICK_US)
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
