//! The table of backbones.

use finetuner::describe_models;

/// The table in the Python client's guide. Its rows are the first ones of ours.
const GUIDE: &str = "
┃                                            model ┃           task ┃ output_dim ┃ architecture ┃                                          description ┃
│                                         resnet50 │ image-to-image │       2048 │          CNN │                               Pretrained on ImageNet │
│                                        resnet152 │ image-to-image │       2048 │          CNN │                               Pretrained on ImageNet │
│                                  efficientnet_b0 │ image-to-image │       1280 │          CNN │                               Pretrained on ImageNet │
│                                  efficientnet_b4 │ image-to-image │       1280 │          CNN │                               Pretrained on ImageNet │
│                     openai/clip-vit-base-patch32 │  text-to-image │        768 │  transformer │ Pretrained on millions of text image pairs by OpenAI │
│                                  bert-base-cased │   text-to-text │        768 │  transformer │       Pretrained on BookCorpus and English Wikipedia │
│ sentence-transformers/msmarco-distilbert-base-v3 │   text-to-text │        768 │  transformer │           Pretrained on Bert, fine-tuned on MS Marco │
";

#[test]
fn the_table_of_backbones_begins_with_that_of_the_python_client() {
    let cells = |line: &str| -> Vec<String> {
        line.split(['│', '┃'])
            .map(|c| c.trim().to_owned())
            .collect()
    };
    let table = describe_models().to_string();
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines[0].trim(), "Finetuner backbones");
    assert!(lines[1].starts_with('┏') && lines[1].ends_with('┓'));
    assert!(lines[3].starts_with('┡') && lines[3].ends_with('┩'));
    assert!(table.ends_with('┘'));
    let rows = [&lines[2..3], &lines[4..]].concat();
    for (ours, guide) in rows.iter().zip(GUIDE.trim().lines()) {
        assert_eq!(cells(ours), cells(guide));
    }
    assert!(rows.iter().any(|row| cells(row)[1] == "clip-small"));
    let width = lines[1].chars().count();
    for line in &lines {
        assert_eq!(line.chars().count(), width, "{line}");
    }
}
