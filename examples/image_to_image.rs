//! Image-to-image search: fine-tunes an image encoder on drawings of the same
//! objects by several artists, and finds an object by another drawing of it.
//!
//! ```sh
//! cargo run --release --example image_to_image
//! ```
//!
//! The program starts its own backend and includes a small model. The first argument
//! may name another one, such as
//! `resnet50`, or a folder that begins with `./`.

use finetuner::{
    Csv, CsvOptions, EvaluationCallback, Loss, Optimizer,
    local::{Distance, get_model},
};

mod support;

/// Training allocates and frees large buffers continuously. This allocator is much
/// faster at that than the system's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> support::Fallible<()> {
    let model = std::env::args().nth(1);
    let model = model.as_deref().unwrap_or("efficientnet-small");
    let (backend, finetuner) = support::connect().await?;

    // Each row has an image and a label. Images with the same label show the same
    // object.
    let folder = support::data_folder();
    let labelled = |list: &str, options: CsvOptions| {
        let options = options.is_labeled(true).base_folder(&folder);
        Csv::path(folder.join(format!("image-to-image/{list}.csv"))).options(options)
    };
    let all = |list: &str| labelled(list, CsvOptions::new());
    let evaluation = EvaluationCallback::new(all("queries")).index_data(all("index"));
    let run = finetuner
        // 600 of the 1,877 drawings, to keep it to seconds.
        .fit(model, labelled("train", CsvOptions::new().size(600)))
        .run_name(format!("image-to-image-{}", std::process::id()))
        .loss(Loss::NtXent)
        // The network is frozen; only a new head is trained.
        .freeze(true)
        .optimizer(Optimizer::AdamW)
        .learning_rate(3e-4)
        .epochs(10)
        .batch_size(64)
        .callback(evaluation)
        .await?;
    support::follow(&run).await?;

    let saved = tempfile::tempdir()?;
    let model = run.save_model(saved.path().join("model")).await?;
    let model = get_model(model)?;
    let read = |list: &str| -> support::Fallible<Vec<(String, Vec<u8>)>> {
        let names = support::first_column(&folder.join(format!("image-to-image/{list}.csv")))?;
        let read = names.into_iter().map(|name| {
            let bytes = std::fs::read(folder.join(&name))?;
            Ok((name, bytes))
        });
        read.collect()
    };
    let encode = |images: &[(String, Vec<u8>)]| {
        let bytes: Vec<&[u8]> = images.iter().map(|(_, bytes)| bytes.as_slice()).collect();
        model.encode_images(&bytes)
    };
    let (mut queries, index) = (read("queries")?, read("index")?);
    queries.truncate(3);
    let found = encode(&index)?.search(&encode(&queries)?, 3, Distance::Cosine)?;
    for ((query, _), found) in queries.iter().zip(found) {
        println!("\n{query}");
        for found in found {
            println!("  {:.3} {}", 1.0 - found.distance, index[found.index].0);
        }
    }
    if let Some(backend) = backend {
        backend.stop().await;
    }
    Ok(())
}
