//! Entry points of the fuzzers.

use finetuner_protocol::Task;

use crate::{Csv, CsvOptions, Dataset, Layout};

/// Reads the input as CSV and as JSON Lines. The first byte selects the options.
pub fn csv(bytes: &[u8]) {
    let Some((choice, bytes)) = bytes.split_first() else {
        return;
    };
    let encodings = ["utf-8", "utf-16", "latin-1", "shift_jis"];
    let tasks = [
        Task::TextToText,
        Task::TextToImage,
        Task::ImageToImage,
        Task::MeshToMesh,
    ];
    let mut options = CsvOptions::new()
        .is_labeled(choice & 4 > 0)
        .convert_to_blob(choice & 8 > 0);
    // Without an encoding, it is detected.
    if choice & 3 > 0 {
        options = options.encoding(encodings[usize::from(choice & 3)]);
    }
    let layout = match choice & 16 > 0 {
        true => Ok(Layout::TEXTS),
        false => Layout::of_task(&tasks[usize::from(choice >> 5 & 3)]),
    };
    let (Ok(csv), Ok(rows)) = (Csv::reader(bytes), Dataset::json_lines_reader(bytes)) else {
        return;
    };
    let Ok(layout) = layout else { return };
    let sources = [
        csv.options(options).documents(layout),
        rows.documents(layout),
    ];
    for source in sources.into_iter().flatten() {
        assert!(source.iter().count() <= 2 * bytes.len() + 2);
    }
}
