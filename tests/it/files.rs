//! Training on files of rows.

use finetuner::{Columns, Csv, CsvOptions, Dataset, Fit, Loss, Prompts};

use crate::backend::{rows, start};

/// Returns the log of a short run.
async fn trained(fit: Fit, name: &str) -> String {
    let fit = fit.run_name(name).epochs(1).batch_size(3);
    let run = fit.learning_rate(1e-5).await.unwrap();
    run.wait().await.unwrap();
    run.logs().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_with_negatives_train_with_every_loss_that_supports_them() {
    let (server, finetuner) = start().await;
    let things = ["dress", "shoe", "hat", "coat"];
    let json: String = things
        .iter()
        .map(|thing| {
            let row = serde_json::json!({
                "query": format!("a {thing}"), "answer": format!("the {thing}"),
                "negative": ["a car", "a tree"], "by": "me",
            });
            format!("{row}\n")
        })
        .collect();
    let file = Dataset::json_lines_reader(json.as_bytes()).unwrap();
    let fit = |loss: Loss| finetuner.fit("minilm-small", file.clone()).loss(loss);
    let log = trained(fit(Loss::MultipleNegativeRanking), "ranking").await;
    assert!(log.contains("4 pairs to train on"), "{log}");
    let log = trained(fit(Loss::Triplet), "triplets").await;
    assert!(
        log.contains("4 pairs with 2 negatives each to train on"),
        "{log}"
    );
    let log = trained(
        fit(Loss::TripletMargin).miner("EmbeddingsAlreadyPackagedAsTriplets"),
        "packaged",
    )
    .await;
    assert!(
        log.contains("4 pairs with 2 negatives each to train on"),
        "{log}"
    );

    let csv = "q,wrong,good,margin\na dress,a car,the dress,1.5\na shoe,a tree,the shoe,2\n";
    let columns = Columns::new()
        .anchor("q")
        .positive("good")
        .add_negative("wrong")
        .add_score("margin");
    let csv = Csv::text(csv).options(CsvOptions::new().columns(columns));
    let fit = finetuner.fit("minilm-small", csv).loss(Loss::MarginMse);
    let log = trained(fit, "margins").await;
    assert!(log.contains("2 triplets to train on"), "{log}");
    let refused = finetuner.fit("minilm-small", file).loss(Loss::MarginMse);
    let refused = refused.await.unwrap_err().to_string();
    assert!(refused.contains("no tag `finetuner_score`"), "{refused}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_images_trains_a_text_image_model() {
    let (server, finetuner) = start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut metadata = String::from("file_name,text\n");
    for (i, (image, title)) in rows("train", 4).into_iter().enumerate() {
        std::fs::write(folder.path().join(format!("{i}.png")), image).unwrap();
        metadata.push_str(&format!("{i}.png,\"{title}\"\n"));
    }
    std::fs::write(folder.path().join("metadata.csv"), metadata).unwrap();
    let images = Dataset::image_folder(folder.path());
    let log = trained(
        finetuner.fit("clip-small", images).loss(Loss::Clip),
        "folder",
    )
    .await;
    assert!(log.contains("4 pairs to train on"), "{log}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_data_sets_train_one_model_with_prompts() {
    let (server, finetuner) = start().await;
    let pairs = "a dress,the dress\na shoe,the shoe\na hat,the hat\n";
    let triplets = "{\"anchor\": \"a car\", \"positive\": \"the car\", \"negative\": \"a tree\"}\n\
                    {\"anchor\": \"a cat\", \"positive\": \"the cat\", \"negative\": \"a bush\"}\n";
    let triplets = Dataset::json_lines_reader(triplets.as_bytes()).unwrap();
    let prompts = Prompts::new().anchor("query: ").positive("passage: ");
    let fit = finetuner
        .fit("minilm-small", Csv::text(pairs))
        .more_train_data(triplets, 3.0)
        .loss(Loss::MultipleNegativeRanking)
        .prompts(prompts);
    let log = trained(fit.clone(), "two").await;
    assert!(log.contains("5 pairs of 2 data sets to train on"), "{log}");
    assert!(log.contains("(25 %)") && log.contains("(75 %)"), "{log}");
    assert!(
        log.contains("Prompt of anchors and queries: `query: `"),
        "{log}"
    );
    let refused = fit.train_data_weight(0.0).await.unwrap_err();
    assert!(refused.is_invalid(), "{refused:?}");
    assert!(
        refused.to_string().contains("`train_data_weight` is 0"),
        "{refused}"
    );
    server.stop().await;
}
