//! Pages of lists.

use serde::{Deserialize, Deserializer, Serialize};

/// One page of a list.
///
/// Servers of clients up to 0.6 answer with a plain list, which is read as the only
/// page.
///
/// ```
/// let page: finetuner_protocol::Page<u32> =
///     serde_json::from_str(r#"{"items": [1, 2], "total": 9, "page": 1, "size": 2}"#)?;
/// assert_eq!(page.total, 9);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Page<T> {
    /// Items of the page.
    pub items: Vec<T>,
    /// Number of items on all pages.
    pub total: u64,
    /// Number of the page, counted from 1.
    pub page: u64,
    /// Maximum number of items per page.
    pub size: u64,
}

impl<T> Page<T> {
    /// Creates a page of at most `size` items, out of `total` on all pages.
    #[must_use]
    pub fn new(items: Vec<T>, total: u64, page: u64, size: u64) -> Self {
        Self {
            items,
            total,
            page,
            size,
        }
    }

    /// Applies a function to each item.
    ///
    /// ```
    /// let page: finetuner_protocol::Page<u32> = serde_json::from_str("[1, 2]")?;
    /// assert_eq!(page.map(|n| n * 10).items, [10, 20]);
    /// # Ok::<(), serde_json::Error>(())
    /// ```
    #[must_use]
    pub fn map<U>(self, f: impl FnMut(T) -> U) -> Page<U> {
        Page {
            items: self.items.into_iter().map(f).collect(),
            total: self.total,
            page: self.page,
            size: self.size,
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Page<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<T>(std::marker::PhantomData<T>);

        impl<'de, T: Deserialize<'de>> serde::de::Visitor<'de> for Visitor<T> {
            type Value = Page<T>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a page or a list")
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(
                self,
                mut list: A,
            ) -> Result<Page<T>, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = list.next_element()? {
                    items.push(item);
                }
                let total = items.len() as u64;
                Ok(Page {
                    items,
                    total,
                    page: 1,
                    size: total,
                })
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<Page<T>, A::Error> {
                #[derive(Deserialize)]
                struct Wire<T> {
                    items: Vec<T>,
                    total: u64,
                    page: u64,
                    size: u64,
                }
                let Wire {
                    items,
                    total,
                    page,
                    size,
                } = Wire::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
                Ok(Page {
                    items,
                    total,
                    page,
                    size,
                })
            }
        }

        deserializer.deserialize_any(Visitor(std::marker::PhantomData))
    }
}
