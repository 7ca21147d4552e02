//! Lists models, their options, and callbacks.
//!
//! ```sh
//! cargo run --example describe_models
//! ```

use finetuner::{Task, describe_models, list_callbacks, list_model_options, list_models};

fn main() {
    println!("{}\n", describe_models());
    println!("{}\n", describe_models().task(&Task::TextToImage));
    println!(
        "{} models, {} of them known by another name as well\n",
        list_models().len(),
        {
            let table = describe_models();
            let named = table.backbones().iter().filter(|b| !b.aliases.is_empty());
            named.count()
        }
    );
    for option in list_model_options("bert-base-en").unwrap_or_default() {
        let default = option.default.unwrap_or("must be given");
        println!("option {}: {} [{default}]", option.name, option.kind);
    }
    println!("callbacks: {}", list_callbacks().join(", "));
}
