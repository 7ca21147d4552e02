//! Searching with a model on this machine, without a backend.
//!
//! ```sh
//! cargo run --release --example search -- [FOLDER] [QUERY ...]
//! ```
//!
//! `FOLDER` is a folder that `save_model` wrote, such as `clip-model` of the example
//! `text_to_image`, or a zip of `save_artifact`. The default is the small CLIP before
//! fine-tuning.

use finetuner::local::{build_model, cos_sim, get_model};

mod support;

fn main() -> support::Fallible<()> {
    let mut arguments = std::env::args().skip(1);
    let model = match arguments.next() {
        Some(folder) => get_model(folder)?,
        None => build_model("clip-small")?,
    };
    let mut queries: Vec<String> = arguments.collect();
    if queries.is_empty() {
        queries = ["cat", "pizza", "rocket"].map(str::to_owned).to_vec();
    }

    let mut images = Vec::new();
    for entry in std::fs::read_dir(support::data_folder().join("images/noto"))? {
        let path = entry?.path();
        images.push((path.clone(), std::fs::read(path)?));
    }
    let bytes: Vec<&[u8]> = images.iter().map(|(_, bytes)| bytes.as_slice()).collect();
    let index = model.encode_images(&bytes)?;
    let texts: Vec<&str> = queries.iter().map(String::as_str).collect();
    let asked = model.encode_texts(&texts)?;

    println!("Searched {} images:", index.len());
    for (query, embedding) in queries.iter().zip(asked.iter()) {
        let mut found: Vec<(f32, usize)> = index
            .iter()
            .enumerate()
            .map(|(i, image)| (cos_sim(embedding, image), i))
            .collect();
        found.sort_by(|a, b| b.0.total_cmp(&a.0));
        println!("  {query}");
        for (score, i) in found.into_iter().take(3) {
            let name = images[i].0.file_name().unwrap_or_default();
            println!("    {score:.3} {}", name.to_string_lossy());
        }
    }
    Ok(())
}
