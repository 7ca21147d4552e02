//! Names on the wire, as enums that also accept unknown names. A newer server may
//! send a name that an older client does not know; the client sends it back unchanged.
//!
//! ```
//! use finetuner_protocol::Loss;
//!
//! assert_eq!(Loss::from("CLIPLoss"), Loss::Clip);
//! assert_eq!(Loss::Clip, "CLIPLoss");
//! // An unknown name is kept.
//! let next: Loss = "NextLoss".parse().unwrap();
//! assert_eq!(next.to_string(), "NextLoss");
//! ```

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
            /// All values except [`Self::Other`].
            pub const KNOWN: &'static [Self] = &[$(Self::$variant,)+];

            /// Returns the name on the wire.
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

        impl From<&String> for $name {
            fn from(name: &String) -> Self {
                Self::from(name.as_str())
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                match name {
                    $name::Other(name) => name,
                    known => known.as_str().to_owned(),
                }
            }
        }

        impl std::str::FromStr for $name {
            type Err = std::convert::Infallible;

            fn from_str(name: &str) -> Result<Self, Self::Err> {
                Ok(Self::from(name))
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                self.as_str()
            }
        }

        impl PartialEq<str> for $name {
            fn eq(&self, name: &str) -> bool {
                self.as_str() == name
            }
        }

        impl PartialEq<&str> for $name {
            fn eq(&self, name: &&str) -> bool {
                self.as_str() == *name
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
    /// Loss to minimize. Most names are those of pytorch-metric-learning.
    pub enum Loss {
        /// Symmetric cross-entropy over the text-image pairs of a batch.
        Clip => "CLIPLoss",
        /// Margin between positive and negative distance, for given triplets.
        Triplet => "TripletLoss",
        /// Margin between positive and negative distance, for triplets of a batch.
        TripletMargin => "TripletMarginLoss",
        /// Applies another loss to the output of earlier layers too.
        AdaptiveLayer => "AdaptiveLayerLoss",
        /// Limit on the angle at the negative of a triplet.
        Angular => "AngularLoss",
        /// Additive angular margin with weights per class.
        ArcFace => "ArcFaceLoss",
        /// Cross-entropy between a cross-encoder's score for a pair and whether its
        /// texts belong together.
        BinaryCrossEntropy => "BinaryCrossEntropyLoss",
        /// Base class of pytorch-metric-learning's losses; listed by the Python client.
        BaseMetricLossFunction => "BaseMetricLossFunction",
        /// Order of scored pairs by the angle between complex numbers.
        AnglE => "AnglELoss",
        /// All triplets of a batch with a positive loss.
        BatchAllTriplet => "BatchAllTripletLoss",
        /// [`Loss::BatchHardTriplet`] with `softplus` instead of a margin.
        BatchHardSoftMarginTriplet => "BatchHardSoftMarginTripletLoss",
        /// Farthest positive and nearest negative of each sample.
        BatchHardTriplet => "BatchHardTripletLoss",
        /// Nearest negative that is farther away than each positive.
        BatchSemiHardTriplet => "BatchSemiHardTripletLoss",
        /// [`Loss::MultipleNegativeRanking`] with a `mini_batch_size`, 32 by default,
        /// under the name in sentence-transformers.
        CachedMultipleNegativesRanking => "CachedMultipleNegativesRankingLoss",
        /// Triplets of a sample and class centroids.
        CentroidTriplet => "CentroidTripletLoss",
        /// Pairs weighted by the distance of each similarity from its optimum.
        Circle => "CircleLoss",
        /// Positives nearer than one margin, negatives farther than another.
        Contrastive => "ContrastiveLoss",
        /// Large margin cosine with weights per class.
        CosFace => "CosFaceLoss",
        /// Order of scored pairs by their cosine similarities.
        CoSent => "CoSENTLoss",
        /// Difference between cosine similarity and a given score.
        CosineSimilarity => "CosineSimilarityLoss",
        /// Applies another loss to embeddings of earlier batches too.
        CrossBatchMemory => "CrossBatchMemory",
        /// Divergence of a query's similarities from those of a teacher.
        DistillKlDiv => "DistillKLDivLoss",
        /// Difference between embeddings and those of a teacher.
        EmbedDistill => "EmbedDistillLoss",
        /// Helper class of pytorch-metric-learning; listed by the Python client.
        EmbeddingRegularizerMixin => "EmbeddingRegularizerMixin",
        /// Average precision by histogram binning.
        FastAp => "FastAPLoss",
        /// Log-sum-exp over all pairs of a sample.
        GeneralizedLiftedStructure => "GeneralizedLiftedStructureLoss",
        /// Base class of pair losses; listed by the Python client.
        GenericPair => "GenericPairLoss",
        /// [`Loss::MultipleNegativeRanking`] without false negatives that a guide detects.
        Gist => "GISTEmbedLoss",
        /// Variance of pair similarities.
        IntraPairVariance => "IntraPairVarianceLoss",
        /// Multiplicative angular margin with weights per class.
        LargeMarginSoftmax => "LargeMarginSoftmaxLoss",
        /// Every positive pair against all negatives of both members.
        LiftedStructure => "LiftedStructureLoss",
        /// Distances against a learned boundary.
        Margin => "MarginLoss",
        /// Difference between score margins and those of a cross-encoder.
        MarginMse => "MarginMSELoss",
        /// Applies another loss to embeddings truncated to several dimensions.
        Matryoshka => "MatryoshkaLoss",
        /// Combines [`Loss::AdaptiveLayer`] and [`Loss::Matryoshka`].
        Matryoshka2d => "Matryoshka2dLoss",
        /// Squared difference between a cross-encoder's score for a pair and the given
        /// one.
        Mse => "MSELoss",
        /// Soft weights for self, negative and positive similarities.
        MultiSimilarity => "MultiSimilarityLoss",
        /// Weighted sum of losses.
        MultipleLosses => "MultipleLosses",
        /// All other pairs of the batch are negatives.
        MultipleNegativeRanking => "MultipleNegativeRankingLoss",
        /// One positive against the positives of all other classes.
        NPairs => "NPairsLoss",
        /// Neighbourhood components analysis.
        Nca => "NCALoss",
        /// Cross-entropy over normalized weights per class.
        NormalizedSoftmax => "NormalizedSoftmaxLoss",
        /// Normalized temperature-scaled cross-entropy.
        NtXent => "NTXentLoss",
        /// [`Loss::NtXent`] as the Python client's documentation misspells it.
        NtXentMisspelled => "NTXLoss",
        /// Proxies are anchors for all samples of a batch.
        ProxyAnchor => "ProxyAnchorLoss",
        /// NCA with a proxy per class.
        ProxyNca => "ProxyNCALoss",
        /// Contrastive loss with the signal-to-noise ratio as distance.
        SignalToNoiseRatioContrastive => "SignalToNoiseRatioContrastiveLoss",
        /// Sigmoid loss over each text-image pair of a batch, as in SigLIP.
        SigLip => "SigLIPLoss",
        /// Several weights per class.
        SoftTriple => "SoftTripleLoss",
        /// Multiplicative angular margin over normalized weights.
        SphereFace => "SphereFaceLoss",
        /// Supervised contrastive loss.
        SupCon => "SupConLoss",
        /// One positive against many negatives, with an angular margin.
        TupletMargin => "TupletMarginLoss",
        /// Variance, invariance, covariance.
        VicReg => "VICRegLoss",
        /// Helper class of pytorch-metric-learning; listed by the Python client.
        WeightRegularizerMixin => "WeightRegularizerMixin",
    }
}

open_enum! {
    /// Selects pairs or triplets from a batch. The names are those of
    /// pytorch-metric-learning.
    pub enum Miner {
        /// Triplets with an angle above a limit.
        Angular => "AngularMiner",
        /// Base class; listed by the Python client.
        Base => "BaseMiner",
        /// Base class of miners that select samples; listed by the Python client.
        BaseSubsetBatch => "BaseSubsetBatchMiner",
        /// Base class of miners that select tuples; listed by the Python client.
        BaseTuple => "BaseTupleMiner",
        /// Easy or hard pairs, with separate strategies for positives and negatives.
        BatchEasyHard => "BatchEasyHardMiner",
        /// Hardest positive and hardest negative of each sample.
        BatchHard => "BatchHardMiner",
        /// Negatives spread evenly over distances.
        DistanceWeighted => "DistanceWeightedMiner",
        /// Hardest fraction of all pairs.
        Hdc => "HDCMiner",
        /// Batches that already consist of triplets.
        EmbeddingsAlreadyPackagedAsTriplets => "EmbeddingsAlreadyPackagedAsTriplets",
        /// Samples with the largest loss.
        MaximumLoss => "MaximumLossMiner",
        /// Pairs that violate a margin.
        PairMargin => "PairMarginMiner",
        /// Negatives harder than the easiest positive, and vice versa.
        MultiSimilarity => "MultiSimilarityMiner",
        /// Triplets that violate a margin: all, easy, semihard or hard ones.
        TripletMargin => "TripletMarginMiner",
        /// Pairs spread evenly over distances.
        UniformHistogram => "UniformHistogramMiner",
    }
}

open_enum! {
    /// Updates the weights from gradients. The names are those of `torch.optim`.
    pub enum Optimizer {
        /// Steps scaled by running averages of gradients and updates.
        Adadelta => "Adadelta",
        /// Steps scaled by all gradients so far.
        Adagrad => "Adagrad",
        /// Adaptive moments.
        Adam => "Adam",
        /// Adam with decoupled weight decay.
        AdamW => "AdamW",
        /// Adam for sparse gradients.
        SparseAdam => "SparseAdam",
        /// Adam with the infinity norm.
        Adamax => "Adamax",
        /// Averaged stochastic gradient descent.
        Asgd => "ASGD",
        /// Limited-memory quasi-Newton.
        Lbfgs => "LBFGS",
        /// Adam with Nesterov momentum.
        NAdam => "NAdam",
        /// Adam with a rectified variance.
        RAdam => "RAdam",
        /// Steps scaled by a running average of squared gradients.
        RmsProp => "RMSprop",
        /// Steps that use only the signs of gradients.
        Rprop => "Rprop",
        /// Stochastic gradient descent.
        Sgd => "SGD",
    }
}

open_enum! {
    /// Learning rate schedule. The names are those of `transformers`.
    pub enum Scheduler {
        /// Linear decay to zero.
        Linear => "linear",
        /// Decay to zero along half a cosine.
        Cosine => "cosine",
        /// Decay along cosines with hard restarts.
        CosineWithRestarts => "cosine_with_restarts",
        /// Polynomial decay.
        Polynomial => "polynomial",
        /// Constant.
        Constant => "constant",
        /// Constant after warmup.
        ConstantWithWarmup => "constant_with_warmup",
    }
}

open_enum! {
    /// Strategy that forms batches from examples.
    pub enum Sampler {
        /// `random` for losses with weights per class, `class` for all others.
        Auto => "auto",
        /// Several items of each class in a batch.
        Class => "class",
        /// Random items.
        Random => "random",
    }
}

open_enum! {
    /// Order of the batches of several data sets. The names are those of
    /// sentence-transformers.
    pub enum MultiDatasetBatchSampler {
        /// Every batch of every data set once per epoch, in random order.
        Proportional => "proportional",
        /// One batch of each data set in turn, until one data set is exhausted.
        RoundRobin => "round_robin",
    }
}

open_enum! {
    /// Status of a run.
    pub enum Status {
        /// The run waits in the queue.
        Created => "CREATED",
        /// The run is in progress.
        Started => "STARTED",
        /// The run has ended successfully and has an artifact.
        Finished => "FINISHED",
        /// The run has ended without an artifact.
        Failed => "FAILED",
    }
}

impl Status {
    /// Returns whether the run has ended.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Finished | Self::Failed)
    }
}

open_enum! {
    /// Device that a run requests.
    pub enum Device {
        /// The CPU.
        Cpu => "cpu",
        /// A GPU. The Python client calls it `cuda`.
        Gpu => "gpu",
    }
}

impl Device {
    /// Returns the name on the wire: the Python client's `cuda` becomes `gpu`.
    #[must_use]
    pub fn canonical(self) -> Self {
        match self {
            Self::Other(name) if name == "cuda" => Self::Gpu,
            device => device,
        }
    }
}

open_enum! {
    /// Kind of run.
    pub enum RunTask {
        /// Fine-tuning a model.
        Training => "training",
        /// Creating training data.
        Generation => "generation",
    }
}

open_enum! {
    /// Task of a model: the modalities that it compares.
    pub enum Task {
        /// Texts with texts.
        TextToText => "text-to-text",
        /// Texts with images.
        TextToImage => "text-to-image",
        /// Images with images.
        ImageToImage => "image-to-image",
        /// 3D meshes with 3D meshes.
        MeshToMesh => "mesh-to-mesh",
        /// Anything with anything.
        Any => "any",
    }
}

open_enum! {
    /// Distance between embeddings in an evaluation.
    pub enum Distance {
        /// One minus the cosine similarity.
        Cosine => "cosine",
        /// Euclidean distance.
        Euclidean => "euclidean",
        /// Squared Euclidean distance.
        SqEuclidean => "sqeuclidean",
    }
}

open_enum! {
    /// Modality of a document, which selects the part of a model that embeds it.
    pub enum Modality {
        /// A text.
        Text => "text",
        /// An image.
        Image => "image",
        /// A 3D mesh or a point cloud.
        Mesh => "mesh",
    }
}

open_enum! {
    /// Interval at which a schedule changes the learning rate.
    pub enum SchedulerStep {
        /// After each batch.
        Batch => "batch",
        /// After each epoch.
        Epoch => "epoch",
    }
}

open_enum! {
    /// Direction in which a monitored metric improves.
    pub enum MonitorMode {
        /// Down for losses, up for all other metrics.
        Auto => "auto",
        /// Down.
        Min => "min",
        /// Up.
        Max => "max",
    }
}

open_enum! {
    /// Selection of hard negatives among the candidates.
    pub enum SamplingStrategy {
        /// The most similar candidates.
        Top => "top",
        /// A random sample of the candidates.
        Random => "random",
    }
}

open_enum! {
    /// Format of the documents that mining of hard negatives creates.
    pub enum NegativesFormat {
        /// A query, its match and one negative.
        Triplet => "triplet",
        /// A query, its match and all its negatives.
        NTuple => "n-tuple",
        /// A query and a document, with the score 1 or 0.
        LabeledPair => "labeled-pair",
        /// A query, its match and its negatives, with the tag `labels`.
        LabeledList => "labeled-list",
    }
}

#[cfg(test)]
mod tests;
