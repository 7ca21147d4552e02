//! Reads a file of documents and writes it again, for comparison with docarray:
//! `rewrite_documents there.da back.da`.

use std::{
    fs::File,
    io::{BufReader, BufWriter},
};

use finetuner_protocol::DocumentArray;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut paths = std::env::args().skip(1);
    let (Some(from), Some(to)) = (paths.next(), paths.next()) else {
        return Err("usage: rewrite_documents FROM TO".into());
    };
    let documents = DocumentArray::from_reader(BufReader::new(File::open(from)?))?;
    documents.write(BufWriter::new(File::create(to)?))?;
    Ok(())
}
