//! What a page shows of a run.

use crate::{
    console::{chart::View, links::run_path, words::query},
    database::{ArtifactRow, CheckpointRow, RunRow},
};

/// What a page shows of a run.
pub(super) struct Shown {
    pub(super) run: RunRow,
    pub(super) checkpoints: Vec<CheckpointRow>,
    pub(super) artifact: Option<ArtifactRow>,
    pub(super) view: View,
    pub(super) tab: Tab,
}

impl Shown {
    /// The address of this page with another tab.
    pub(super) fn address(&self, tab: Tab, more: &[(&str, &str)]) -> String {
        let view = self.view.fields();
        let mut fields: Vec<(&str, &str)> = more.to_vec();
        fields.push(("tab", tab.word()));
        fields.extend(view.iter().map(|(name, value)| (*name, value.as_str())));
        format!("{}{}", run_path(&self.run), query(&fields))
    }
}

/// What a tab shows.
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

    /// Reads the value in an address. An unknown one is the log.
    pub(super) fn read(word: &str) -> Self {
        let found = Self::ALL.into_iter().find(|tab| tab.word() == word);
        found.unwrap_or_default()
    }

    /// The value in addresses; empty for the first tab.
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
