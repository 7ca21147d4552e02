//! Code that starts the same run as the form: Rust, Python and the command line.

use maud::{Markup, html};
use serde_json::json;

use super::typed::Typed;
use crate::console::snippets::for_shell;

/// Renders code that starts the run of a form. `project` is `None` for the user's
/// personal project.
pub(super) fn code(typed: &Typed, project: Option<&str>) -> Markup {
    let mut all = vec![
        ("Rust", rust(typed, project)),
        ("Command line", shell(typed, project)),
    ];
    // The Python client does not support projects.
    if project.is_none() {
        all.insert(1, ("Python", python(typed)));
    }
    html! {
        @for (title, code) in &all {
            details { summary { (title) } pre tabindex="0" { code { (code) } } }
        }
    }
}

/// Returns the non-empty settings: name (the same in all three languages), value,
/// whether it is a number.
fn settings(typed: &Typed) -> Vec<(&'static str, &str, bool)> {
    [
        ("epochs", typed.epochs.trim(), true),
        ("batch_size", typed.batch_size.trim(), true),
        ("learning_rate", typed.learning_rate.trim(), true),
        ("loss", typed.loss.trim(), false),
        ("eval_data", typed.eval_data.trim(), false),
        ("description", typed.description.trim(), false),
    ]
    .into_iter()
    // Values in number fields are not quoted, so invalid ones must be left out.
    .filter(|(_, value, is_number)| {
        !value.is_empty() && (!is_number || value.parse::<f64>().is_ok())
    })
    .collect()
}

fn rust(typed: &Typed, project: Option<&str>) -> String {
    let quoted = |text: &str| format!("{text:?}");
    let login = match project {
        None => "login()".to_owned(),
        Some(project) => format!("builder().project({}).login()", quoted(project)),
    };
    let mut code = format!(
        "let finetuner = finetuner::Finetuner::{login}.await?;\nlet run = finetuner\n    \
         .fit({}, {})\n    .experiment_name({})\n    .run_name({})\n",
        quoted(typed.model()),
        quoted(&typed.data),
        quoted(typed.experiment()),
        quoted(typed.name.trim())
    );
    for (name, value, is_number) in settings(typed) {
        let value = match is_number {
            true => value.to_owned(),
            false => quoted(value),
        };
        code.push_str(&format!("    .{name}({value})\n"));
    }
    if typed.evaluates() {
        let data = quoted(typed.eval_data.trim());
        code.push_str(&format!(
            "    .callback(finetuner::EvaluationCallback::new({data}))\n"
        ));
    }
    if typed.device == "cpu" {
        code.push_str("    .device(finetuner::Device::Cpu)\n");
    }
    code.push_str("    .await?;\nprintln!(\"{}\", run.status().await?);");
    code
}

fn python(typed: &Typed) -> String {
    // JSON string literals are valid in Python.
    let quoted = |text: &str| json!(text).to_string();
    let mut code = String::from("import finetuner\n");
    if typed.evaluates() {
        code.push_str("from finetuner.callback import EvaluationCallback\n");
    }
    code.push_str(&format!(
        "\nfinetuner.login()\nrun = finetuner.fit(\n    model={},\n    train_data={},\n    \
         experiment_name={},\n    run_name={},\n",
        quoted(typed.model()),
        quoted(&typed.data),
        quoted(typed.experiment()),
        quoted(typed.name.trim())
    ));
    for (name, value, is_number) in settings(typed) {
        let value = match is_number {
            true => value.to_owned(),
            false => quoted(value),
        };
        code.push_str(&format!("    {name}={value},\n"));
    }
    if typed.evaluates() {
        let data = quoted(typed.eval_data.trim());
        code.push_str(&format!("    callbacks=[EvaluationCallback({data})],\n"));
    }
    let device = if typed.device == "cpu" { "cpu" } else { "cuda" };
    code.push_str(&format!("    device=\"{device}\",\n)\nprint(run.status())"));
    code
}

fn shell(typed: &Typed, project: Option<&str>) -> String {
    let project = project.map_or(String::new(), |project| {
        format!("--project {} ", for_shell(project))
    });
    let mut code = format!(
        "finetuner {project}fit {} --model {} --experiment {} --run-name {}",
        for_shell(&format!("name:{}", typed.data)),
        for_shell(typed.model()),
        for_shell(typed.experiment()),
        for_shell(typed.name.trim())
    );
    for (name, value, _) in settings(typed) {
        let value = match name {
            "eval_data" => format!("name:{value}"),
            _ => value.to_owned(),
        };
        let option = name.replace('_', "-");
        code.push_str(&format!(" \\\n  --{option} {}", for_shell(&value)));
    }
    if typed.evaluates() {
        let data = for_shell(&format!("name:{}", typed.eval_data.trim()));
        code.push_str(&format!(" \\\n  --evaluate {data}"));
    }
    let device = if typed.device == "cpu" { "cpu" } else { "cuda" };
    code.push_str(&format!(" \\\n  --device {device}"));
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rust_of_team(typed: &Typed) -> String {
        rust(typed, Some("team"))
    }

    #[test]
    fn values_are_quoted_for_each_language() {
        let typed = Typed {
            name: "it's".into(),
            data: "a \"b\"".into(),
            model: "minilm-small".into(),
            loss: "CoSENTLoss".into(),
            epochs: "3".into(),
            eval_data: "eval".into(),
            evaluate: "yes".into(),
            device: "cpu".into(),
            ..Typed::default()
        };
        let rust = rust(&typed, None);
        assert!(
            rust.contains(r#".fit("minilm-small", "a \"b\"")"#),
            "{rust}"
        );
        assert!(rust.contains(".epochs(3)\n"), "{rust}");
        let python = python(&typed);
        assert!(python.contains("run_name=\"it's\""), "{python}");
        assert!(python.contains("EvaluationCallback(\"eval\")"), "{python}");
        let of_team = [rust_of_team(&typed), shell(&typed, Some("team"))];
        assert!(of_team[0].contains("builder().project(\"team\").login()"));
        assert!(of_team[1].starts_with("finetuner --project 'team' fit "));
        let shell = shell(&typed, None);
        assert!(shell.contains(r"--run-name 'it'\''s'"), "{shell}");
        assert!(shell.contains("--evaluate 'name:eval'"), "{shell}");
        assert!(
            shell.starts_with("finetuner fit 'name:a \"b\"' --model"),
            "{shell}"
        );
    }
}
