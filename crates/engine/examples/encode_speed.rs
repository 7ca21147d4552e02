//! Measures encoding for `scripts/bench_encoding.py`.
//!
//! Each line of standard input is a request: a file with a JSON list of texts or image
//! paths, and the number of repetitions. The answer is a line with the seconds of each
//! repetition and the mean CPU seconds of one.

use std::{io::BufRead, path::PathBuf, time::Instant};

use clap::Parser;
use finetuner_engine::infer::Encoder;
use serde::Deserialize;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
struct Args {
    /// Model folder in Hugging Face layout, or the name of a backbone.
    model: String,
    /// Use 8-bit matrix products.
    #[arg(long)]
    int8: bool,
}

#[derive(Deserialize)]
struct Request {
    texts: Option<PathBuf>,
    pictures: Option<PathBuf>,
    repeat: usize,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let mut encoder = match PathBuf::from(&args.model).is_dir() {
        true => Encoder::from_folder(&args.model)?,
        false => Encoder::from_backbone(&args.model)?,
    };
    if args.int8 {
        encoder = encoder.quantized();
    }
    for line in std::io::stdin().lock().lines() {
        let request: Request = serde_json::from_str(&line?)?;
        let list = |path: &PathBuf| -> Result<Vec<String>, Box<dyn std::error::Error>> {
            Ok(serde_json::from_slice(&std::fs::read(path)?)?)
        };
        let texts = request.texts.as_ref().map(list).transpose()?;
        let texts = texts.unwrap_or_default();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let mut images = Vec::new();
        for path in request
            .pictures
            .as_ref()
            .map(list)
            .transpose()?
            .iter()
            .flatten()
        {
            images.push(std::fs::read(path)?);
        }
        let images: Vec<&[u8]> = images.iter().map(Vec::as_slice).collect();
        let cpu = cpu_seconds()?;
        let mut seconds = Vec::with_capacity(request.repeat);
        for _ in 0..request.repeat {
            let started = Instant::now();
            if texts.is_empty() {
                encoder.encode_images(&images)?;
            } else {
                encoder.encode_texts(&texts)?;
            }
            seconds.push(started.elapsed().as_secs_f64());
        }
        let cpu = (cpu_seconds()? - cpu) / request.repeat as f64;
        println!("{}", serde_json::json!({ "seconds": seconds, "cpu": cpu }));
    }
    Ok(())
}

/// Returns the CPU seconds of all threads of this process.
fn cpu_seconds() -> std::io::Result<f64> {
    let mut nanoseconds = 0.0;
    for task in std::fs::read_dir("/proc/self/task")? {
        let path = task?.path().join("schedstat");
        let line = std::fs::read_to_string(path).unwrap_or_default();
        let first = line.split_whitespace().next().unwrap_or("0");
        nanoseconds += first.parse::<f64>().unwrap_or(0.0);
    }
    Ok(nanoseconds / 1e9)
}
