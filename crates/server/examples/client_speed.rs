//! Measures calls of the client for `scripts/bench_client.py`, which measures the same
//! calls of the Python client. Prints the seconds of all calls.
//!
//! `client_speed CALL COUNT BYTES NOISE`: the address and the token come from the
//! environment; images are pieces of the file `NOISE`.

use std::{sync::Arc, time::Instant};

use finetuner::{Document, DocumentArray, DocumentSource, Finetuner};

/// Signature of PNG files, so that pieces of noise count as images.
const HEAD: &[u8] = b"\x89PNG\r\n\x1a\n";

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [call, count, bytes, noise] = arguments.as_slice() else {
        return Err("CALL COUNT BYTES NOISE are wanted".into());
    };
    let (count, bytes): (usize, usize) = (count.parse()?, bytes.parse()?);
    let finetuner = Finetuner::login().await?;
    let started;
    match call.as_str() {
        "push" => {
            // Read while it is sent, like images in files.
            let noise = Arc::new(std::fs::read(noise)?);
            let source = DocumentSource::new(move || {
                let noise = Arc::clone(&noise);
                (0..count).map(move |n| {
                    let start = n * 4099 % (noise.len() - bytes);
                    Document::blob([HEAD, &noise[start..start + bytes]].concat())
                })
            });
            started = Instant::now();
            finetuner.push("speed", source).await?;
        }
        "pull" => {
            started = Instant::now();
            let documents = finetuner.pull("speed").await?;
            assert_eq!(documents.len(), count);
        }
        "stream" => {
            started = Instant::now();
            let mut stream = finetuner.pull("speed").stream().await?;
            let mut seen = 0;
            while let Some(document) = stream.next().await {
                document?;
                seen += 1;
            }
            assert_eq!(seen, count);
        }
        // A tiny data set, and a long run that occupies the queue.
        "hold" => {
            started = Instant::now();
            let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../datasets/emoji-clip");
            let pair = |title: &str| -> std::io::Result<Document> {
                let picture = std::fs::read(format!("{folder}/images/noto/{title}.png"))?;
                Ok(Document::new()
                    .with_chunk(Document::blob(picture).with_modality("image"))
                    .with_chunk(Document::text(title).with_modality("text")))
            };
            let pairs = ["crown", "kimono"].map(pair).into_iter();
            let pairs: DocumentArray = pairs.collect::<Result<_, _>>()?;
            finetuner.push("tiny", pairs).await?;
            let fit = finetuner.fit("clip-small", "tiny").run_name("first");
            fit.loss("CLIPLoss").epochs(49).await?;
        }
        "fit" => {
            started = Instant::now();
            for _ in 0..count {
                finetuner
                    .fit("clip-small", "tiny")
                    .loss("CLIPLoss")
                    .epochs(1)
                    .await?;
            }
        }
        "status" => {
            let run = finetuner.get_run("first").await?;
            started = Instant::now();
            for _ in 0..count {
                run.status().await?;
            }
        }
        other => return Err(format!("`{other}` is no call").into()),
    }
    println!("{}", started.elapsed().as_secs_f64());
    Ok(())
}
