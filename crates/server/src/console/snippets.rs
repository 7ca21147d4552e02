//! Code examples that use a finished model in other programs.

use finetuner_engine::models::ModelKind;
use maud::{Markup, html};
use serde_json::json;

use crate::database::RunRow;

/// A code example.
struct Snippet {
    title: &'static str,
    note: &'static str,
    code: String,
}

/// Location of a run.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    /// URL of the server.
    pub(super) address: &'a str,
    /// The run's project, unless it is the user's personal one.
    pub(super) project: Option<&'a str>,
}

/// Renders code that uses a run's model through the server's API, and from its
/// folder.
pub(super) fn snippets(run: &RunRow, kind: ModelKind, place: Place<'_>) -> Markup {
    let all = match kind {
        ModelKind::Text | ModelKind::Image | ModelKind::TextImage => all(run, kind, place),
        _ => vec![rust(run, kind, place)],
    };
    html! {
        @for (i, snippet) in all.iter().enumerate() {
            details open[i == 0] {
                summary { (snippet.title) }
                @if !snippet.note.is_empty() { p .hint { (snippet.note) } }
                pre tabindex="0" { code { (snippet.code) } }
            }
        }
    }
}

fn all(run: &RunRow, kind: ModelKind, place: Place<'_>) -> Vec<Snippet> {
    let mut all = vec![
        curl(run, kind, place),
        openai(run, kind, place),
        rust(run, kind, place),
    ];
    if kind == ModelKind::Text {
        all.push(sentence_transformers(run, place));
    }
    all.push(transformers(run, kind, place));
    all.push(onnxruntime(run, kind, place));
    all
}

/// Quotes a text as a string literal that is valid in Python and Rust.
fn quoted(text: &str) -> String {
    json!(text).to_string()
}

/// Quotes a text for a shell.
pub(super) fn for_shell(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Returns the input that the examples embed.
fn input(kind: ModelKind) -> &'static str {
    match kind {
        ModelKind::Image => "data:image/png;base64,...",
        _ => "a long red dress",
    }
}

/// Name of the HTTP header with the project.
const HEADER: &str = "x-finetuner-project";

fn curl(run: &RunRow, kind: ModelKind, place: Place<'_>) -> Snippet {
    let address = place.address;
    let project = place.project.map_or(String::new(), |project| {
        format!("  -H {} \\\n", for_shell(&format!("{HEADER}: {project}")))
    });
    let body = json!({"model": run.label(), "input": [input(kind)]});
    Snippet {
        title: "curl",
        note: "JINA_AUTH_TOKEN is one of your tokens.",
        code: format!(
            "curl {address}/v1/embeddings \\\n  -H \"Authorization: Bearer $JINA_AUTH_TOKEN\" \\\n  \
             -H 'Content-Type: application/json' \\\n{project}  -d {}",
            for_shell(&body.to_string())
        ),
    }
}

fn openai(run: &RunRow, kind: ModelKind, place: Place<'_>) -> Snippet {
    let (model, base) = (
        quoted(&run.label()),
        quoted(&format!("{}/v1", place.address)),
    );
    let project = place.project.map_or(String::new(), |project| {
        format!(", default_headers={{\"{HEADER}\": {}}}", quoted(project))
    });
    let input = match kind {
        ModelKind::Text => format!("[{}]", quoted(input(kind))),
        ModelKind::Image => "[image]".to_owned(),
        _ => format!("[{}, image]", quoted(input(kind))),
    };
    let image = match kind {
        ModelKind::Text => "",
        _ => {
            "with open(\"dress.png\", \"rb\") as file:\n    image = \"data:image/png;base64,\" + \
             base64.b64encode(file.read()).decode()\n"
        }
    };
    let import = match kind {
        ModelKind::Text => "import os\n",
        _ => "import base64\nimport os\n",
    };
    Snippet {
        title: "Python, openai",
        note: "LangChain: OpenAIEmbeddings(model=..., base_url=..., check_embedding_ctx_length=False).",
        code: format!(
            "{import}\nfrom openai import OpenAI\n\nclient = OpenAI(base_url={base}, \
             api_key=os.environ[\"JINA_AUTH_TOKEN\"]{project})\n{image}answer = \
             client.embeddings.create(model={model}, input={input})\nprint(answer.data[0].embedding)"
        ),
    }
}

fn rust(run: &RunRow, kind: ModelKind, place: Place<'_>) -> Snippet {
    let login = match place.project {
        None => "login()".to_owned(),
        Some(project) => format!("builder().project({}).login()", quoted(project)),
    };
    let open = match kind {
        ModelKind::TextPairs => "CrossEncoder::from_folder(folder)?",
        _ => "get_model(folder)?",
    };
    let (experiment, name) = (quoted(&run.experiment), quoted(&run.name));
    Snippet {
        title: "Rust",
        note: "The feature `local` runs the model in your program.",
        code: format!(
            "let finetuner = finetuner::Finetuner::{login}.await?;\nlet run = \
             finetuner.get_experiment({experiment}).await?.get_run({name}).await?;\nlet folder = \
             run.save_model(\"model\").await?;\nlet model = finetuner::local::{open};",
        ),
    }
}

/// Returns a comment with the command that saves the model as a folder.
fn save(run: &RunRow, place: Place<'_>, more: &str) -> String {
    let name = for_shell(&run.label());
    let project = place.project.map_or(String::new(), |project| {
        format!(" --project {}", for_shell(project))
    });
    format!("# finetuner{project} save {name} --output model{more}\n")
}

fn sentence_transformers(run: &RunRow, place: Place<'_>) -> Snippet {
    Snippet {
        title: "Python, sentence-transformers",
        note: "",
        code: format!(
            "{}from sentence_transformers import SentenceTransformer\n\nmodel = \
             SentenceTransformer(\"model\")\nprint(model.encode([\"a long red dress\"]))",
            save(run, place, "")
        ),
    }
}

fn transformers(run: &RunRow, kind: ModelKind, place: Place<'_>) -> Snippet {
    let code = match kind {
        ModelKind::Text => {
            "from transformers import AutoModel, AutoTokenizer\n\n\
             tokenizer = AutoTokenizer.from_pretrained(\"model\")\n\
             model = AutoModel.from_pretrained(\"model\")\n\
             tokens = tokenizer([\"a long red dress\"], padding=True, truncation=True, return_tensors=\"pt\")\n\
             states = model(**tokens).last_hidden_state"
        }
        ModelKind::Image => {
            "from PIL import Image\nfrom transformers import AutoImageProcessor, AutoModel\n\n\
             processor = AutoImageProcessor.from_pretrained(\"model\")\n\
             model = AutoModel.from_pretrained(\"model\")\n\
             pixels = processor(Image.open(\"dress.png\").convert(\"RGB\"), return_tensors=\"pt\")\n\
             states = model(**pixels).last_hidden_state"
        }
        _ => {
            "from PIL import Image\nfrom transformers import AutoModel, AutoProcessor\n\n\
             processor = AutoProcessor.from_pretrained(\"model\")\n\
             model = AutoModel.from_pretrained(\"model\")\n\
             inputs = processor(text=[\"a long red dress\"], images=Image.open(\"dress.png\").convert(\"RGB\"),\n    \
             padding=True, return_tensors=\"pt\")\n\
             outputs = model(**inputs)\n\
             print(outputs.text_embeds, outputs.image_embeds)"
        }
    };
    Snippet {
        title: "Python, transformers",
        note: match kind {
            ModelKind::Text | ModelKind::Image => {
                "Returns the network's output. Apply pooling and projection head yourself."
            }
            _ => "Projection heads that a run with `freeze` trained are not applied.",
        },
        code: format!("{}{code}", save(run, place, "")),
    }
}

fn onnxruntime(run: &RunRow, kind: ModelKind, place: Place<'_>) -> Snippet {
    let (file, text) = match kind {
        ModelKind::Text => ("model.onnx", true),
        ModelKind::Image => ("model.onnx", false),
        _ => ("text_model.onnx", true),
    };
    let code = match text {
        true => {
            "import numpy as np\nimport onnxruntime\nfrom tokenizers import Tokenizer\n\n\
             tokens = Tokenizer.from_file(\"onnx/tokenizer.json\").encode(\"a long red dress\").ids\n\
             inputs = {\n    \"input_ids\": np.array([tokens], np.int64),\n    \
             \"attention_mask\": np.ones((1, len(tokens)), np.int64),\n}\n"
        }
        false => {
            "import numpy as np\nimport onnxruntime\nfrom PIL import Image\n\
             from transformers import AutoImageProcessor\n\n\
             processor = AutoImageProcessor.from_pretrained(\"onnx\")\n\
             image = Image.open(\"dress.png\").convert(\"RGB\")\n\
             inputs = {\"pixel_values\": processor(image, return_tensors=\"np\")[\"pixel_values\"]}\n"
        }
    };
    Snippet {
        title: "Python, onnxruntime",
        note: "Pooling, projection head and normalisation are in the file.",
        code: format!(
            "{}{code}session = onnxruntime.InferenceSession(\"onnx/{file}\")\n\
             print(session.run([\"embedding\"], inputs)[0])",
            save(run, place, " --onnx onnx")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_for_each_language() {
        assert_eq!(for_shell("it's"), r"'it'\''s'");
        assert_eq!(quoted("a \"b\" \\"), r#""a \"b\" \\""#);
    }
}
