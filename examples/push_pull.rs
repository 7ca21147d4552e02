//! Documents: creating, summarizing, pushing, pulling, and storing them in files.
//!
//! ```sh
//! cargo run --example push_pull
//! ```

use finetuner::{Document, DocumentArray, DocumentSource, Summary, load_documents, save_documents};

mod support;

#[tokio::main]
async fn main() -> support::Fallible<()> {
    let (backend, finetuner) = support::connect().await?;
    let folder = support::data_folder();
    let pair = |image: &str, title: &str| {
        let image = Document::uri(folder.join("images/noto").join(image).to_string_lossy());
        Document::new()
            .with_chunk(image.with_modality("image"))
            .with_chunk(Document::text(title).with_modality("text"))
    };
    let documents = DocumentArray::from(vec![
        pair("running-shoe.png", "a running shoe"),
        pair("crown.png", "a golden crown"),
    ]);
    println!("{}\n", Summary::from(&documents));

    // Images in files are read while they are sent.
    finetuner.push("example-documents", &documents).await?;
    let pulled = finetuner.pull("example-documents").await?;
    for document in &pulled {
        let image = document.chunks[0].as_blob().unwrap_or_default();
        let title = document.chunks[1].as_text().unwrap_or_default();
        println!("{title}: {} bytes", image.len());
    }

    // Many documents can be produced while they are sent, and read while they arrive.
    let many = DocumentSource::new(|| (0..10_000).map(|n| Document::text(format!("text {n}"))));
    finetuner
        .push("example-many", many)
        .show_progress(true)
        .await?;
    let mut stream = finetuner.pull("example-many").stream().await?;
    let mut count = 0;
    while let Some(document) = stream.next().await {
        document?;
        count += 1;
    }
    println!("{count} documents arrived one at a time");

    let file = std::env::temp_dir().join("example-documents.da");
    save_documents(&file, pulled).await?;
    println!(
        "{} documents in {}",
        load_documents(&file).await?.len(),
        file.display()
    );

    for info in finetuner.list_documents().await? {
        println!("{:?} has {:?} documents", info.name, info.length());
    }
    for name in ["example-documents", "example-many"] {
        finetuner.delete_documents(name).await?;
    }
    std::fs::remove_file(file)?;

    if let Some(backend) = backend {
        backend.stop().await;
    }
    Ok(())
}
