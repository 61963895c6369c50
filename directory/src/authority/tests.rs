//! Authorities in one process, under virtual time, with seeded latencies, crashes and liars.

mod attacks;
mod net;
mod randomness;
mod rounds;
mod simulation;
