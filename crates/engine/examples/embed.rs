//! Embeds texts and images with a saved model and writes the embeddings as
//! safetensors.
//!
//! ```text
//! cargo run --release -p finetuner-engine --example embed -- \
//!     clip-model embeddings.safetensors --text "a red dress" --picture dress.png
//! ```

use std::{collections::HashMap, path::PathBuf};

use clap::Parser;
use finetuner_engine::{
    infer::{Embeddings, Encoder},
    models::OnnxFormat,
    params::{FloatFormat, write_safetensors},
};

#[derive(Parser)]
struct Args {
    /// Model folder in Hugging Face layout.
    model: PathBuf,
    /// File to write, with the tensors `text_embeds` and `image_embeds`.
    output: PathBuf,
    /// Text to embed; may be repeated.
    #[arg(long)]
    text: Vec<String>,
    /// Image to embed (PNG, JPEG, GIF, WebP or BMP); may be repeated.
    #[arg(long)]
    picture: Vec<PathBuf>,
    /// Folder for the model as ONNX.
    #[arg(long)]
    onnx: Option<PathBuf>,
    /// Folder for the model as ONNX with 8-bit weights.
    #[arg(long)]
    onnx_int8: Option<PathBuf>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let encoder = Encoder::from_folder(&args.model)?;
    if let Some(folder) = &args.onnx {
        encoder.save_onnx(folder)?;
    }
    if let Some(folder) = &args.onnx_int8 {
        encoder.save_onnx_as(folder, OnnxFormat::Int8)?;
    }
    let texts: Vec<&str> = args.text.iter().map(String::as_str).collect();
    let images: Vec<Vec<u8>> = args
        .picture
        .iter()
        .map(std::fs::read)
        .collect::<Result<_, _>>()?;
    let images: Vec<&[u8]> = images.iter().map(Vec::as_slice).collect();
    let tensor = |embeddings: Embeddings| {
        let shape = vec![embeddings.len(), embeddings.dim];
        (shape, embeddings.values)
    };
    let tensors = HashMap::from([
        (
            "text_embeds".to_owned(),
            tensor(encoder.encode_texts(&texts)?),
        ),
        (
            "image_embeds".to_owned(),
            tensor(encoder.encode_images(&images)?),
        ),
    ]);
    write_safetensors(&args.output, &tensors, FloatFormat::F32)?;
    println!("{} texts, {} images", texts.len(), images.len());
    Ok(())
}
