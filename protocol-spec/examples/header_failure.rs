//! Peels refused packets of one class, for `.ci/instructions` to count what that costs:
//! `header_failure CLASS COUNT`. Without arguments it names the classes.
//!
//! The class `wrong-length` is the control: such packets are refused at once, which nobody learns anything from (a link
//! can't even carry one), and the count must show it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, unreachable_pub, reason = "a tool of the tests")]

use std::process::ExitCode;

use posta_protocol::onion::peel;
use posta_protocol::packet::Packet;

#[path = "../tests/attacks/failures.rs"]
mod failures;

const CONTROL: &str = "wrong-length";
/// Distinct packets, used in turn.
const PACKETS: usize = 8;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (class, count) = match args.as_slice() {
        [] => {
            failures::CLASSES.into_iter().chain([CONTROL]).for_each(|class| println!("{class}"));
            return ExitCode::SUCCESS;
        }
        [class, count] => (class.as_str(), count.parse::<usize>().unwrap()),
        _ => return ExitCode::from(2),
    };
    let packets = if class == CONTROL {
        failures::packets(failures::CLASSES[0], PACKETS)
            .map(|all| all.into_iter().map(|p| [&p, [0].as_slice()].concat().into_boxed_slice()).collect())
    } else {
        failures::packets(class, PACKETS)
    };
    let Some(packets) = packets else { return ExitCode::from(2) };
    let ring = failures::ring();
    let mut packet = Packet::from_bytes(packets[0].clone());
    for i in 0..count {
        packet.as_bytes_mut().copy_from_slice(&packets[i % PACKETS]);
        if peel(&ring, &mut packet, |_, _| true).is_ok() {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
