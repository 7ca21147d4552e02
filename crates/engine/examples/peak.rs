//! Measures this machine's peak arithmetic speed: fused multiply-adds in registers, on
//! all threads. It is the upper bound for matrix products.
//!
//! ```text
//! cargo run --release -p finetuner-engine --example peak
//! ```
//!
//! `scripts/bench_products.py` compares it with PyTorch's matrix products.

use std::{hint::black_box, time::Instant};

/// Number of independent sums, so that no instruction waits for another: 24 registers
/// of 16 numbers.
const SUMS: usize = 24 * 16;
const ROUNDS: usize = 20_000_000;
const TRIES: usize = 5;

fn main() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let once = || {
        let started = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| black_box(multiply_and_add(black_box(ROUNDS))));
            }
        });
        (2 * SUMS * ROUNDS * threads) as f64 / started.elapsed().as_secs_f64() / 1e9
    };
    let best = (0..TRIES).map(|_| once()).fold(0.0, f64::max);
    println!("{threads} threads: {best:.0} GFLOP/s of 32-bit numbers");
}

fn multiply_and_add(rounds: usize) -> f32 {
    let (factor, more) = (black_box(0.999f32), black_box(0.5f32));
    pulp::Arch::new().dispatch(
        #[inline(always)]
        || {
            let mut sums = [1.0f32; SUMS];
            for _ in 0..rounds {
                for sum in &mut sums {
                    *sum = sum.mul_add(factor, more);
                }
            }
            sums.iter().sum()
        },
    )
}
