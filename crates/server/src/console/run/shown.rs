//! The data of a run's page, and its tabs.

use crate::{
    console::{chart::View, links::run_path, words::query},
    database::{ArtifactRow, CheckpointRow, RunRow},
};

/// The data of a run's page.
pub(super) struct Shown {
    pub(super) run: RunRow,
    pub(super) checkpoints: Vec<CheckpointRow>,
    pub(super) artifact: Option<ArtifactRow>,
    pub(super) view: View,
    pub(super) tab: Tab,
}

impl Shown {
    /// Returns the URL of this page with another tab.
    pub(super) fn address(&self, tab: Tab, more: &[(&str, &str)]) -> String {
        let view = self.view.fields();
        let mut fields: Vec<(&str, &str)> = more.to_vec();
        fields.push(("tab", tab.word()));
        fields.extend(view.iter().map(|(name, value)| (*name, value.as_str())));
        format!("{}{}", run_path(&self.run), query(&fields))
    }
}

/// A tab of the page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tab {
    #[default]
    Log,
    Configuration,
    Checkpoints,
    Files,
}

impl Tab {
    pub(super) const ALL: [Self; 4] = [
        Self::Log,
        Self::Configuration,
        Self::Checkpoints,
        Self::Files,
    ];

    /// Parses the value in a URL. An unknown value selects the log.
    pub(super) fn read(word: &str) -> Self {
        let found = Self::ALL.into_iter().find(|tab| tab.word() == word);
        found.unwrap_or_default()
    }

    /// Returns the value in URLs; empty for the log.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Log => "",
            Self::Configuration => "configuration",
            Self::Checkpoints => "checkpoints",
            Self::Files => "files",
        }
    }

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Log => "Log",
            Self::Configuration => "Full configuration",
            Self::Checkpoints => "Checkpoints",
            Self::Files => "Files",
        }
    }
}
