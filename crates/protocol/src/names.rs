//! Names on the wire, as enums that also hold names they don't know: a newer
//! server may send what an older client never heard of, and back it goes as it
//! came.

macro_rules! open_enum {
    (
        $(#[$meta:meta])*
        pub enum $name:ident {
            $($(#[$variant_meta:meta])* $variant:ident => $text:literal,)+
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$variant_meta])* $variant,)+
            /// Any other name.
            Other(String),
        }

        impl $name {
            /// The values that have names of their own here.
            pub const KNOWN: &'static [Self] = &[$(Self::$variant,)+];

            /// The name on the wire.
            #[must_use]
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $text,)+
                    Self::Other(name) => name,
                }
            }
        }

        impl From<&str> for $name {
            fn from(name: &str) -> Self {
                match name {
                    $($text => Self::$variant,)+
                    other => Self::Other(other.to_owned()),
                }
            }
        }

        impl From<String> for $name {
            fn from(name: String) -> Self {
                Self::from(name.as_str())
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Ok(Self::from(String::deserialize(deserializer)?))
            }
        }
    };
}

open_enum! {
    /// What training makes smaller. Most names are those of
    /// pytorch-metric-learning.
    pub enum Loss {
        /// Symmetric cross-entropy over the text-image pairs of a batch.
        Clip => "CLIPLoss",
        /// Distance to a positive against distance to a negative, with a margin.
        TripletMargin => "TripletMarginLoss",
        /// Additive angular margin with weights per class.
        ArcFace => "ArcFaceLoss",
        /// Large margin cosine with weights per class.
        CosFace => "CosFaceLoss",
        /// Normalised temperature-scaled cross-entropy.
        NtXent => "NTXentLoss",
        /// Cosine similarity against a given score.
        CosineSimilarity => "CosineSimilarityLoss",
        /// Margins between similarities against those of a cross-encoder.
        MarginMse => "MarginMSELoss",
    }
}

open_enum! {
    /// How gradients change the weights. The names are those of `torch.optim`.
    pub enum Optimizer {
        /// Adaptive moments.
        Adam => "Adam",
        /// Adam with decoupled weight decay.
        AdamW => "AdamW",
        /// Stochastic gradient descent.
        Sgd => "SGD",
    }
}

open_enum! {
    /// Where a run stands.
    pub enum Status {
        /// It waits to be started.
        Created => "CREATED",
        /// It is running.
        Started => "STARTED",
        /// It has ended well; there is an artifact.
        Finished => "FINISHED",
        /// It has ended without an artifact.
        Failed => "FAILED",
    }
}

impl Status {
    /// Whether nothing more will happen.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Finished | Self::Failed)
    }
}

open_enum! {
    /// Which processor a run asks for.
    pub enum Device {
        /// The main processor.
        Cpu => "cpu",
        /// A graphics processor. The Python client calls it `cuda`.
        Gpu => "gpu",
    }
}

open_enum! {
    /// What kind of run it is.
    pub enum RunTask {
        /// Fine-tuning a model.
        Training => "training",
        /// Making training data.
        Generation => "generation",
    }
}

open_enum! {
    /// What kinds of things a model compares.
    pub enum Task {
        /// Texts with texts.
        TextToText => "text-to-text",
        /// Texts with pictures.
        TextToImage => "text-to-image",
        /// Pictures with pictures.
        ImageToImage => "image-to-image",
        /// Anything with anything.
        Any => "any",
    }
}
