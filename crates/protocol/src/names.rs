//! Names on the wire, as enums that also hold names they don't know: a newer
//! server may send a name that an older client does not know, and the client sends
//! it back as it came.
//!
//! ```
//! use finetuner_protocol::Loss;
//!
//! assert_eq!(Loss::from("CLIPLoss"), Loss::Clip);
//! assert_eq!(Loss::Clip, "CLIPLoss");
//! // A name that is not known is kept.
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
    /// What training makes smaller. Most names are those of
    /// pytorch-metric-learning.
    pub enum Loss {
        /// Symmetric cross-entropy over the text-image pairs of a batch.
        Clip => "CLIPLoss",
        /// Triplets of an anchor, its match and a negative, given as such.
        Triplet => "TripletLoss",
        /// Distance to a positive against distance to a negative, with a margin.
        TripletMargin => "TripletMarginLoss",
        /// Another loss over the output of earlier layers too.
        AdaptiveLayer => "AdaptiveLayerLoss",
        /// A bound on the angle at the negative of a triplet.
        Angular => "AngularLoss",
        /// Additive angular margin with weights per class.
        ArcFace => "ArcFaceLoss",
        /// Cross-entropy of a cross-encoder's score for a pair and whether its
        /// texts belong together.
        BinaryCrossEntropy => "BinaryCrossEntropyLoss",
        /// The base class of pytorch-metric-learning's losses; listed by the Python client.
        BaseMetricLossFunction => "BaseMetricLossFunction",
        /// The order of scored pairs by the angle between complex numbers.
        AnglE => "AnglELoss",
        /// All triplets of a batch that cost something.
        BatchAllTriplet => "BatchAllTripletLoss",
        /// [`Loss::BatchHardTriplet`] without a margin, by `softplus`.
        BatchHardSoftMarginTriplet => "BatchHardSoftMarginTripletLoss",
        /// The farthest positive and the nearest negative of each sample.
        BatchHardTriplet => "BatchHardTripletLoss",
        /// The nearest negative that is farther than each positive.
        BatchSemiHardTriplet => "BatchSemiHardTripletLoss",
        /// [`Loss::MultipleNegativeRanking`] with a `mini_batch_size`, 32 by default, under the
        /// name that sentence-transformers gives it.
        CachedMultipleNegativesRanking => "CachedMultipleNegativesRankingLoss",
        /// Triplets of a sample and the centroids of classes.
        CentroidTriplet => "CentroidTripletLoss",
        /// Pair weights by how far each similarity is from its optimum.
        Circle => "CircleLoss",
        /// Positives nearer than one margin, negatives farther than another.
        Contrastive => "ContrastiveLoss",
        /// Large margin cosine with weights per class.
        CosFace => "CosFaceLoss",
        /// The order of scored pairs by their cosine similarities.
        CoSent => "CoSENTLoss",
        /// Cosine similarity against a given score.
        CosineSimilarity => "CosineSimilarityLoss",
        /// Another loss over embeddings of earlier batches as well.
        CrossBatchMemory => "CrossBatchMemory",
        /// Divergence of a query's similarities from those of a teacher.
        DistillKlDiv => "DistillKLDivLoss",
        /// Embeddings against those of a teacher.
        EmbedDistill => "EmbedDistillLoss",
        /// A helper class of pytorch-metric-learning; listed by the Python client.
        EmbeddingRegularizerMixin => "EmbeddingRegularizerMixin",
        /// Average precision by histogram binning.
        FastAp => "FastAPLoss",
        /// Log-sum-exp over all pairs of a sample.
        GeneralizedLiftedStructure => "GeneralizedLiftedStructureLoss",
        /// The base class of pair losses; listed by the Python client.
        GenericPair => "GenericPairLoss",
        /// [`Loss::MultipleNegativeRanking`] without the negatives that a guide takes for matches.
        Gist => "GISTEmbedLoss",
        /// Variance of pair similarities.
        IntraPairVariance => "IntraPairVarianceLoss",
        /// Multiplicative angular margin with weights per class.
        LargeMarginSoftmax => "LargeMarginSoftmaxLoss",
        /// Every positive pair against all negatives of both.
        LiftedStructure => "LiftedStructureLoss",
        /// Distances against a learned boundary.
        Margin => "MarginLoss",
        /// Margins between similarities against those of a cross-encoder.
        MarginMse => "MarginMSELoss",
        /// Another loss over embeddings that are cut to several lengths.
        Matryoshka => "MatryoshkaLoss",
        /// [`Loss::AdaptiveLayer`] and [`Loss::Matryoshka`] together.
        Matryoshka2d => "Matryoshka2dLoss",
        /// Squared difference between a cross-encoder's score for a pair and the
        /// given one.
        Mse => "MSELoss",
        /// Soft weights for self, negative and positive similarities.
        MultiSimilarity => "MultiSimilarityLoss",
        /// A weighted sum of losses.
        MultipleLosses => "MultipleLosses",
        /// Every other pair of the batch as a negative.
        MultipleNegativeRanking => "MultipleNegativeRankingLoss",
        /// One positive against the positives of all other classes.
        NPairs => "NPairsLoss",
        /// Neighbourhood components analysis.
        Nca => "NCALoss",
        /// Cross-entropy over normalised weights per class.
        NormalizedSoftmax => "NormalizedSoftmaxLoss",
        /// Normalised temperature-scaled cross-entropy.
        NtXent => "NTXentLoss",
        /// [`Loss::NtXent`] as the Python client's documentation spelled it.
        NtXentMisspelled => "NTXLoss",
        /// Proxies as anchors for all samples of a batch.
        ProxyAnchor => "ProxyAnchorLoss",
        /// NCA with a proxy for each class.
        ProxyNca => "ProxyNCALoss",
        /// Contrastive, with the signal-to-noise ratio as distance.
        SignalToNoiseRatioContrastive => "SignalToNoiseRatioContrastiveLoss",
        /// Each text-image pair of a batch classified for itself, as SigLIP is
        /// trained.
        SigLip => "SigLIPLoss",
        /// Several weights for each class.
        SoftTriple => "SoftTripleLoss",
        /// Multiplicative angular margin over normalised weights.
        SphereFace => "SphereFaceLoss",
        /// Supervised contrastive.
        SupCon => "SupConLoss",
        /// One positive against many negatives, with an angular margin.
        TupletMargin => "TupletMarginLoss",
        /// Variance, invariance, covariance.
        VicReg => "VICRegLoss",
        /// A helper class of pytorch-metric-learning; listed by the Python client.
        WeightRegularizerMixin => "WeightRegularizerMixin",
    }
}

open_enum! {
    /// What chooses pairs or triplets from a batch. The names are those of
    /// pytorch-metric-learning.
    pub enum Miner {
        /// Triplets with an angle above a limit.
        Angular => "AngularMiner",
        /// The base class; listed by the Python client.
        Base => "BaseMiner",
        /// The base class of miners that choose samples; listed by the Python client.
        BaseSubsetBatch => "BaseSubsetBatchMiner",
        /// The base class of miners that choose tuples; listed by the Python client.
        BaseTuple => "BaseTupleMiner",
        /// Easy or hard pairs, positives and negatives by strategies of their own.
        BatchEasyHard => "BatchEasyHardMiner",
        /// The hardest positive and the hardest negative of each sample.
        BatchHard => "BatchHardMiner",
        /// Negatives spread evenly over distances.
        DistanceWeighted => "DistanceWeightedMiner",
        /// The hardest share of all pairs.
        Hdc => "HDCMiner",
        /// Batches that are triplets in order.
        EmbeddingsAlreadyPackagedAsTriplets => "EmbeddingsAlreadyPackagedAsTriplets",
        /// Samples with the greatest loss.
        MaximumLoss => "MaximumLossMiner",
        /// Pairs that break a margin.
        PairMargin => "PairMarginMiner",
        /// Negatives harder than the easiest positive, and the reverse.
        MultiSimilarity => "MultiSimilarityMiner",
        /// Triplets that break a margin: all, easy, semihard or hard ones.
        TripletMargin => "TripletMarginMiner",
        /// Pairs spread evenly over distances.
        UniformHistogram => "UniformHistogramMiner",
    }
}

open_enum! {
    /// How gradients change the weights. The names are those of `torch.optim`.
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
        /// Steps by the signs of gradients.
        Rprop => "Rprop",
        /// Stochastic gradient descent.
        Sgd => "SGD",
    }
}

open_enum! {
    /// How the learning rate changes. The names are those of `transformers`.
    pub enum Scheduler {
        /// Down to zero on a line.
        Linear => "linear",
        /// Down to zero along half a cosine.
        Cosine => "cosine",
        /// Down along cosines, with hard restarts.
        CosineWithRestarts => "cosine_with_restarts",
        /// Down along a polynomial.
        Polynomial => "polynomial",
        /// Always the same.
        Constant => "constant",
        /// Always the same once it has risen.
        ConstantWithWarmup => "constant_with_warmup",
    }
}

open_enum! {
    /// How batches are put together.
    pub enum Sampler {
        /// Random for losses with weights per class, by class for all others.
        Auto => "auto",
        /// Several items of each class in a batch.
        Class => "class",
        /// Any items.
        Random => "random",
    }
}

open_enum! {
    /// How batches of several data sets follow each other. The names are those of
    /// sentence-transformers.
    pub enum MultiDatasetBatchSampler {
        /// Every batch of every data set comes once in an epoch, in a random order.
        Proportional => "proportional",
        /// One batch of each data set in turn, until one data set is used up.
        RoundRobin => "round_robin",
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

impl Device {
    /// What the Python client makes of its argument: `cuda` is `gpu`.
    #[must_use]
    pub fn from_python(self) -> Self {
        match self {
            Self::Other(name) if name == "cuda" => Self::Gpu,
            device => device,
        }
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
        /// 3D meshes with 3D meshes.
        MeshToMesh => "mesh-to-mesh",
        /// Anything with anything.
        Any => "any",
    }
}

open_enum! {
    /// How an evaluation compares embeddings.
    pub enum Distance {
        /// One minus the cosine of the angle.
        Cosine => "cosine",
        /// The length of the difference.
        Euclidean => "euclidean",
        /// The square of the length of the difference.
        SqEuclidean => "sqeuclidean",
    }
}

open_enum! {
    /// What a document is, which decides the part of a model that embeds it.
    pub enum Modality {
        /// A text.
        Text => "text",
        /// A picture.
        Image => "image",
        /// A 3D mesh or a point cloud.
        Mesh => "mesh",
    }
}

open_enum! {
    /// How often a scheduler changes the learning rate.
    pub enum SchedulerStep {
        /// After each batch.
        Batch => "batch",
        /// After each epoch.
        Epoch => "epoch",
    }
}

open_enum! {
    /// Which values of a monitored metric are better.
    pub enum MonitorMode {
        /// Smaller ones for losses, greater ones for everything else.
        Auto => "auto",
        /// Smaller ones.
        Min => "min",
        /// Greater ones.
        Max => "max",
    }
}

open_enum! {
    /// Which of the candidates become hard negatives.
    pub enum SamplingStrategy {
        /// The most similar ones.
        Top => "top",
        /// Any of them.
        Random => "random",
    }
}

open_enum! {
    /// The documents that mining of hard negatives makes.
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
mod tests {
    use super::*;

    fn check<T>(known: &[T])
    where
        T: Clone + std::fmt::Debug + PartialEq + std::fmt::Display + for<'a> From<&'a str>,
        T: std::str::FromStr<Err = std::convert::Infallible> + Into<String> + AsRef<str>,
        T: serde::Serialize + serde::de::DeserializeOwned,
    {
        assert!(!known.is_empty());
        for name in known.iter().cloned().chain([T::from("of next year")]) {
            let text: String = name.clone().into();
            assert_eq!(
                (name.to_string(), name.as_ref()),
                (text.clone(), text.as_str())
            );
            assert_eq!(T::from(&text), name);
            assert_eq!(text.parse::<T>().unwrap(), name);
            let json = serde_json::to_value(&name).unwrap();
            assert_eq!(json, text);
            assert_eq!(serde_json::from_value::<T>(json).unwrap(), name);
        }
    }

    #[test]
    fn every_name_is_read_and_written_as_it_is() {
        check(Loss::KNOWN);
        check(Miner::KNOWN);
        check(Optimizer::KNOWN);
        check(Scheduler::KNOWN);
        check(Sampler::KNOWN);
        check(MultiDatasetBatchSampler::KNOWN);
        check(Status::KNOWN);
        check(Device::KNOWN);
        check(RunTask::KNOWN);
        check(Task::KNOWN);
        check(Distance::KNOWN);
        check(Modality::KNOWN);
        check(SchedulerStep::KNOWN);
        check(MonitorMode::KNOWN);
        check(SamplingStrategy::KNOWN);
        check(NegativesFormat::KNOWN);
    }
}
