//! Scores a query and texts with a cross-encoder. Writes the model as ONNX too, if a
//! folder is given. `scripts/check_cross_encoders.py` compares both with
//! sentence-transformers.
//!
//! ```sh
//! cargo run --release -p finetuner-engine --example cross_encoder_scores -- FOLDER [--onnx TO] QUERY TEXT...
//! ```

use std::path::Path;

use finetuner_engine::{infer::CrossEncoder, models::OnnxFormat};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut onnx = None;
    if let Some(place) = arguments.iter().position(|argument| argument == "--onnx") {
        arguments.remove(place);
        onnx = (place < arguments.len()).then(|| arguments.remove(place));
    }
    let [folder, query, texts @ ..] = &arguments[..] else {
        return Err("give a folder, a query and texts".into());
    };
    let model = CrossEncoder::from_folder(folder)?;
    if let Some(to) = onnx {
        model.save_onnx(Path::new(&to).join("float32"), OnnxFormat::Float32)?;
        model.save_onnx(Path::new(&to).join("int8"), OnnxFormat::Int8)?;
    }
    let pairs: Vec<[&str; 2]> = texts.iter().map(|text| [query.as_str(), text]).collect();
    let scores = model.predict(&pairs)?;
    println!("{}", serde_json::to_string(&scores.values)?);
    Ok(())
}
