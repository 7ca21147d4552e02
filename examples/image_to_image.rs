//! Image-to-image search: ResNet on pictures of the same thing by several hands.
//!
//! ```sh
//! cargo run --example image_to_image
//! ```
//!
//! The run is described here as on the backend of the Python client. This
//! version's own backend trains CLIP models alone: it says so, and no run is made.
//! Point the example at another backend with `JINA_FINETUNER_REGISTRY`.

use finetuner::{Csv, CsvOptions, EvaluationCallback, Loss, Options};

mod support;

#[tokio::main]
async fn main() -> support::Fallible<()> {
    let (backend, finetuner) = support::connect().await?;

    // Pictures with labels: those of one label show the same thing.
    let folder = support::data_folder();
    let labelled = |list: &str| {
        Csv::path(folder.join(format!("image-to-image/{list}.csv")))
            .options(CsvOptions::new().is_labeled(true).base_folder(&folder))
    };
    let evaluation = EvaluationCallback::new(labelled("queries")).index_data(labelled("index"));
    let submitted = finetuner
        .fit("resnet-base", labelled("train"))
        .run_name(format!("image-to-image-{}", std::process::id()))
        .loss(Loss::ArcFace)
        .loss_optimizer("SGD")
        .loss_optimizer_options(Options::new().with("lr", 0.1))
        .model_options(Options::new().pooler("GeM"))
        .num_items_per_class(4)
        .epochs(3)
        .callback(evaluation)
        .await;
    support::report(submitted).await?;

    if let Some(backend) = backend {
        backend.stop().await;
    }
    Ok(())
}
