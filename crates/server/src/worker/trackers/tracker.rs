//! A tracker of either kind.

use super::{
    mlflow::MlFlow,
    requests::Failure,
    rows::{End, Row},
    wandb::WandB,
};

/// One tracker.
pub(super) enum Tracker {
    MlFlow(MlFlow),
    WandB(WandB),
}

impl Tracker {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::MlFlow(_) => "MLflow",
            Self::WandB(_) => "Weights & Biases",
        }
    }

    /// Finds or creates the tracker's run. Returns the address of its page.
    pub(super) async fn begin(&mut self) -> Result<String, Failure> {
        match self {
            Self::MlFlow(mlflow) => mlflow.begin().await,
            Self::WandB(wandb) => wandb.begin().await,
        }
    }

    /// Removes the values that the tracker does not show. Returns whether to send
    /// the row.
    pub(super) fn wants(&self, row: &mut Row) -> bool {
        match self {
            Self::MlFlow(_) => true,
            Self::WandB(wandb) => wandb.wants(row),
        }
    }

    /// Sends rows. An empty list is a heartbeat.
    pub(super) async fn send(&mut self, rows: &[Row]) -> Result<(), Failure> {
        match self {
            Self::MlFlow(mlflow) => mlflow.send(rows).await,
            Self::WandB(wandb) => wandb.send(rows).await,
        }
    }

    pub(super) async fn end(&mut self, end: End) -> Result<(), Failure> {
        match self {
            Self::MlFlow(mlflow) => mlflow.end(end).await,
            Self::WandB(wandb) => wandb.end(end).await,
        }
    }
}
