//! A run belongs to the backend: one program submits it and ends, another finds it by
//! name and follows it.
//!
//! ```sh
//! cargo run --release --example reconnect
//! ```

use finetuner::Update;

mod support;

#[tokio::main]
async fn main() -> support::Fallible<()> {
    let (backend, finetuner) = support::connect().await?;
    let name = format!("reconnect-{}", std::process::id());
    drop(support::short_fit(&finetuner, &name).await?);
    println!("Submitted {name}, and dropped its handle");

    let run = finetuner.get_run(&name).await?;
    let mut watch = run.watch();
    while let Some(update) = watch.next().await {
        match update? {
            Update::Status(status) => println!("{status}"),
            Update::Progress(p) => println!(
                "  epoch {} of {}, step {} of {}",
                p.epoch, p.epochs, p.step, p.steps
            ),
            _ => {}
        }
    }
    let last = run.logs().await?;
    println!(
        "The log ends with:\n{}",
        last.lines().last().unwrap_or_default()
    );
    run.delete().await?;

    if let Some(backend) = backend {
        backend.stop().await;
    }
    Ok(())
}
