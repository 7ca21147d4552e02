//! Generations of the Python client.

/// Generation of the Python client whose format is used.
///
/// ```
/// use finetuner_protocol::Generation;
///
/// assert_eq!(Generation::default(), Generation::V0_8);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Generation {
    /// `finetuner-client` 0.2.2 of June 2022.
    V0_2,
    /// `finetuner` 0.8.1 of July 2023, the last one.
    #[default]
    V0_8,
}
