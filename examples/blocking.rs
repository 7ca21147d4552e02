//! Blocking calls, without `async`.
//!
//! ```sh
//! cargo run --release --example blocking
//! ```

use finetuner::blocking::{Wait, WaitIter};

mod support;

fn main() -> support::Fallible<()> {
    // The embedded backend needs a runtime; a client does not.
    let runtime = tokio::runtime::Runtime::new()?;
    let (backend, finetuner) = runtime.block_on(support::connect())?;

    let run = support::short_fit(&finetuner, &format!("blocking-{}", std::process::id())).wait()?;
    for line in run.stream_logs().wait_iter() {
        println!("  {}", line?);
    }
    println!("{}", run.status().wait()?);
    let folder = std::env::temp_dir().join("blocking-model");
    println!("Saved in {}", run.save_model(&folder).wait()?.display());

    if let Some(backend) = backend {
        runtime.block_on(backend.stop());
    }
    Ok(())
}
