//! The guides of Finetuner, which the server shows: the pages of `docs/`.
//!
//! `SUMMARY.md` gives the order and the titles, in the format of mdBook.
//! [`contents`] returns its parts, [`page`] finds a page, and [`Page::html`]
//! renders it. Links between pages are relative, so the pages can be served at any
//! path.
//!
//! ```
//! let page = finetuner_docs::page("data").ok_or("no such page")?;
//! assert_eq!(page.title(), "Your own data");
//! assert!(page.html().contains("<h1"));
//! # Ok::<(), &str>(())
//! ```

mod render;

/// A page of the book.
///
/// ```
/// for page in finetuner_docs::PAGES {
///     println!("{}: {} bytes", page.name, page.markdown.len());
/// }
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Page {
    /// Name of the page: its file without `.md`, its URL without `.html`.
    pub name: &'static str,
    /// Text of the page, in Markdown.
    pub markdown: &'static str,
}

macro_rules! pages {
    ($($module:ident $name:literal,)*) => {
        /// All pages, in the order of the table of contents.
        pub const PAGES: &[Page] = &[$(Page {
            name: $name,
            markdown: include_str!(concat!("../", $name, ".md")),
        }),*];

        // The code blocks of each page, compiled as doctests.
        $(
            #[cfg(doctest)]
            #[doc = include_str!(concat!("../", $name, ".md"))]
            mod $module {}
        )*
    };
}

pages! {
    index "index",
    first_run "first-run",
    data "data",
    choose "choose",
    evaluate "evaluate",
    command_line "command-line",
    testing "testing",
    server "server",
    teams "teams",
    serving "serving",
    sign_in "sign-in",
    notifications "notifications",
    cluster "cluster",
    training "training",
    cross_encoders "cross-encoders",
    settings "settings",
    troubleshooting "troubleshooting",
    python_and_rust "python-and-rust",
    measurements "measurements",
    architecture "architecture",
    add_an_architecture "add-an-architecture",
}

/// Table of contents, in the format of mdBook.
const SUMMARY: &str = include_str!("../SUMMARY.md");

/// A part of the table of contents.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Part {
    /// Title of the part. Empty for the pages before the first titled part.
    pub title: &'static str,
    /// Pages of the part, in order.
    pub pages: Vec<&'static Page>,
}

/// Returns the table of contents.
///
/// ```
/// for part in finetuner_docs::contents() {
///     println!("{}", part.title);
///     for page in part.pages {
///         println!("  {}", page.title());
///     }
/// }
/// ```
pub fn contents() -> Vec<Part> {
    let mut parts = vec![Part {
        title: "",
        pages: Vec::new(),
    }];
    for line in SUMMARY.lines().skip(1) {
        if let Some(title) = line.strip_prefix("# ") {
            parts.push(Part {
                title,
                pages: Vec::new(),
            });
        } else if let Some((_, name)) = entry(line)
            && let (Some(page), Some(part)) = (page(name), parts.last_mut())
        {
            part.pages.push(page);
        }
    }
    parts.retain(|part| !part.pages.is_empty());
    parts
}

/// Returns the page with this name.
///
/// ```
/// assert!(finetuner_docs::page("first-run").is_some());
/// assert!(finetuner_docs::page("../Cargo").is_none());
/// ```
pub fn page(name: &str) -> Option<&'static Page> {
    PAGES.iter().find(|page| page.name == name)
}

/// Returns the title and the page name from a line of the summary.
fn entry(line: &'static str) -> Option<(&'static str, &'static str)> {
    let line = line.trim_start_matches("- ").strip_prefix('[')?;
    let (title, file) = line.strip_suffix(".md)")?.split_once("](")?;
    Some((title, file))
}

impl Page {
    /// Returns the title of the page in the table of contents.
    ///
    /// ```
    /// let page = finetuner_docs::page("first-run").ok_or("no such page")?;
    /// assert_eq!(page.title(), "First run");
    /// # Ok::<(), &str>(())
    /// ```
    pub fn title(&self) -> &'static str {
        let mut entries = SUMMARY.lines().filter_map(entry);
        let found = entries.find(|(_, name)| *name == self.name);
        found.map_or(self.name, |(title, _)| title)
    }

    /// Renders the page as an HTML fragment, without `<html>` and `<body>`. Links to
    /// other pages end in `.html`, headings have an `id`, and nothing is loaded from
    /// other sites.
    ///
    /// ```
    /// let page = finetuner_docs::page("index").ok_or("no such page")?;
    /// assert!(page.html().contains("href=\"first-run.html\""));
    /// # Ok::<(), &str>(())
    /// ```
    pub fn html(&self) -> String {
        render::html(self.markdown)
    }

    /// Returns the second-level headings: `id` and text of each.
    ///
    /// ```
    /// let page = finetuner_docs::page("settings").ok_or("no such page")?;
    /// assert!(page.sections().iter().any(|(id, _)| id == "which-server-and-which-proxy"));
    /// # Ok::<(), &str>(())
    /// ```
    pub fn sections(&self) -> Vec<(String, String)> {
        let all = render::headings(self.markdown).into_iter();
        all.filter(|heading| heading.level == 2)
            .map(|heading| (heading.id, heading.text))
            .collect()
    }

    /// Returns the targets of all links as written, and the `id`s of all headings.
    #[doc(hidden)]
    pub fn links_and_ids(&self) -> (Vec<String>, Vec<String>) {
        let ids = render::headings(self.markdown).into_iter();
        let ids = ids.map(|heading| heading.id).collect();
        (render::links(self.markdown), ids)
    }
}
