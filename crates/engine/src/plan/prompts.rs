//! The field `prompts`: texts that are put before the texts of each column.

use finetuner_protocol::{Prompts, text::start_of};
use serde_json::Value;

use crate::{Error, Result, data::Layout, models::ModelKind, prepare::Prompt, source::LoadedModel};

/// The prompts of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunPrompts {
    /// The prompt of each member of an example; the last one also applies to
    /// further members.
    members: Vec<String>,
}

impl RunPrompts {
    /// Returns the prompt of queries.
    fn query(&self) -> &str {
        self.members.first().map_or("", String::as_str)
    }

    /// Returns the prompt of documents, which queries search for.
    fn document(&self) -> &str {
        let second = self.members.get(1).or(self.members.first());
        second.map_or("", String::as_str)
    }

    /// Replaces a model's prompts by these.
    ///
    /// # Errors
    /// If a prompt can't be tokenized.
    pub(crate) fn apply_to(&self, model: &mut LoadedModel) -> Result<()> {
        let included = model.description.include_prompt;
        let Some(tokenizer) = &model.preparer.tokenizer else {
            return Ok(());
        };
        let prompt = |text: &String| match text.is_empty() {
            true => Ok(None),
            false => Prompt::new(text, tokenizer, included).map(Some),
        };
        model.preparer.member_prompts = self.members.iter().map(prompt).collect::<Result<_>>()?;
        model.preparer.prompt = None;
        let own = &mut model.description.prompts;
        *own = own.replaced(self.query(), self.document())?;
        Ok(())
    }

    /// Describes the prompts and their columns, for the log.
    pub(crate) fn describe(&self) -> String {
        let shown = |prompt: &String| match prompt.as_str() {
            "" => "nothing".to_owned(),
            prompt => format!("`{}`", start_of(prompt)),
        };
        match &self.members[..] {
            [anchor, positive, negative] => format!(
                "Prompt of anchors and queries: {}; of their matches and the index: {}; of \
                 negatives: {}. The model stores the first two as its prompts `query` and `document`",
                shown(anchor),
                shown(positive),
                shown(negative)
            ),
            members => format!(
                "Prompt of all texts: {}. The model stores it as its prompt",
                members.first().map_or_else(String::new, shown)
            ),
        }
    }
}

/// Reads the prompts of a run for examples of this layout.
pub(super) fn read_run_prompts(
    prompts: Option<&Prompts>,
    kind: ModelKind,
    layout: &Layout,
) -> Result<Option<RunPrompts>> {
    let Some(prompts) = prompts else {
        return Ok(None);
    };
    let bad = |reason: String| Err(Error::config("prompts", reason));
    if kind != ModelKind::Text {
        let what = kind.inputs();
        return bad(format!(
            "the model embeds {what}: prompts are for models of texts"
        ));
    }
    let columns = match prompts {
        Prompts::All(prompt) => {
            let members = vec![prompt.clone()];
            return Ok(Some(RunPrompts { members }));
        }
        Prompts::ByColumn(columns) => columns,
        other => {
            let given = serde_json::to_string(other).unwrap_or_default();
            return bad(format!(
                "{}: give a text, or an object with a text per column",
                start_of(&given)
            ));
        }
    };
    // Columns, with the names that data sets for sentence-transformers use.
    let known: &[&[&str]] = match layout {
        Layout::Labelled(_) => &[&["text", "sentence"]],
        _ => &[
            &["anchor", "query", "question", "sentence1"],
            &["positive", "document", "passage", "answer", "sentence2"],
            &["negative"],
        ],
    };
    // Pairs have no negatives.
    let usable = match layout {
        Layout::Pairs(_) | Layout::Scored(_) => &known[..2],
        _ => known,
    };
    let mut members = vec![None; known.len()];
    for (name, prompt) in columns {
        let member = usable
            .iter()
            .position(|names| names.contains(&name.as_str()));
        let Some(member) = member else {
            let names: Vec<&str> = usable.iter().map(|names| names[0]).collect();
            return bad(format!(
                "`{}` is not a column of this data: {} can have a prompt",
                start_of(name),
                names.join(", ")
            ));
        };
        let Value::String(prompt) = prompt else {
            let prompt = start_of(&prompt.to_string());
            return bad(format!("`{}` is {prompt}: give a text", start_of(name)));
        };
        if members[member].replace(prompt.clone()).is_some() {
            return bad(format!(
                "`{}` is given twice, under two names",
                known[member][0]
            ));
        }
    }
    let members = members.into_iter().map(Option::unwrap_or_default);
    Ok(Some(RunPrompts {
        members: members.collect(),
    }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(prompts: Value, layout: &Layout) -> Result<Vec<String>, String> {
        let prompts: Prompts = serde_json::from_value(prompts).unwrap();
        let found = read_run_prompts(Some(&prompts), ModelKind::Text, layout);
        found
            .map(|found| found.unwrap().members)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn columns_have_the_names_of_data_sets() {
        let pairs = Layout::Ranking(ModelKind::Text);
        let labelled = Layout::Labelled(ModelKind::Text);
        assert_eq!(
            read(json!({"query": "q: ", "negative": "n: "}), &pairs).unwrap(),
            ["q: ", "", "n: "]
        );
        assert_eq!(read(json!("p: "), &pairs).unwrap(), ["p: "]);
        assert_eq!(read(json!({"text": "t: "}), &labelled).unwrap(), ["t: "]);
        for (prompts, layout, part) in [
            (
                json!({"title": "x"}),
                &pairs,
                "`title` is not a column of this data: anchor, positive",
            ),
            (json!({"anchor": "x"}), &labelled, "text can have a prompt"),
            (
                json!({"negative": "n: "}),
                &Layout::Scored(ModelKind::Text),
                "anchor, positive can have a prompt",
            ),
            (json!({"anchor": 1}), &pairs, "`anchor` is 1: give a text"),
            (
                json!({"anchor": "a", "query": "b"}),
                &pairs,
                "`anchor` is given twice",
            ),
            (json!(["a"]), &pairs, "[\"a\"]: give a text"),
        ] {
            let found = read(prompts, layout).unwrap_err();
            assert!(found.contains(part), "{part} is missing in: {found}");
        }
        let images = read_run_prompts(Some(&"a".into()), ModelKind::Image, &pairs);
        assert!(
            images
                .unwrap_err()
                .to_string()
                .contains("prompts are for models of texts")
        );
    }
}
