//! Renders Markdown as HTML, with the heading `id`s and links of mdBook.

use pulldown_cmark::{CodeBlockKind, CowStr, Event, Options, Parser, Tag, TagEnd, html::push_html};

/// Heading of a page.
pub(crate) struct Heading {
    pub(crate) level: usize,
    pub(crate) id: String,
    pub(crate) text: String,
}

fn parse(markdown: &str) -> Parser<'_> {
    Parser::new_ext(markdown, Options::ENABLE_TABLES)
}

pub(crate) fn html(markdown: &str) -> String {
    let mut ids = headings(markdown).into_iter().map(|heading| heading.id);
    let mut in_rust = false;
    let events = parse(markdown).flat_map(|event| match event {
        Event::Start(Tag::Heading {
            level,
            classes,
            attrs,
            ..
        }) => vec![Event::Start(Tag::Heading {
            level,
            id: ids.next().map(CowStr::from),
            classes,
            attrs,
        })],
        Event::Start(Tag::Link {
            link_type,
            dest_url,
            title,
            id,
        }) => vec![Event::Start(Tag::Link {
            link_type,
            dest_url: address(&dest_url).into(),
            title,
            id,
        })],
        Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(language))) => {
            in_rust = language.starts_with("rust");
            vec![Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(
                language,
            )))]
        }
        Event::End(TagEnd::CodeBlock) => {
            in_rust = false;
            vec![Event::End(TagEnd::CodeBlock)]
        }
        Event::Text(text) if in_rust => vec![Event::Text(shown(&text).into())],
        // Tables have no alignment: it would be an inline style, which the console's
        // Content-Security-Policy forbids. A wide table scrolls in its own box.
        Event::Start(Tag::Table(columns)) => vec![
            Event::Html("<div class=\"scroll\" tabindex=\"0\">".into()),
            Event::Start(Tag::Table(vec![
                pulldown_cmark::Alignment::None;
                columns.len()
            ])),
        ],
        Event::End(TagEnd::Table) => {
            vec![Event::End(TagEnd::Table), Event::Html("</div>\n".into())]
        }
        // The pages contain no HTML, so text that looks like HTML is escaped.
        Event::Html(text) | Event::InlineHtml(text) => vec![Event::Text(text)],
        event => vec![event],
    });
    let mut text = String::with_capacity(markdown.len() * 3 / 2);
    push_html(&mut text, events);
    // Makes scrolling boxes reachable by keyboard. The text of pages is escaped, so these matches are markup.
    text.replace("<pre>", "<pre tabindex=\"0\">")
}

/// Returns code without the lines that rustdoc hides.
fn shown(code: &str) -> String {
    let hidden = |line: &str| line.trim_end() == "#" || line.starts_with("# ");
    code.split_inclusive('\n')
        .filter(|line| !hidden(line))
        .collect()
}

/// Returns the target of a link in HTML, where pages end in `.html`.
fn address(link: &str) -> String {
    if link.contains("://") {
        return link.to_owned();
    }
    let (file, anchor) = match link.split_once('#') {
        Some((file, anchor)) => (file, format!("#{anchor}")),
        None => (link, String::new()),
    };
    match file.strip_suffix(".md") {
        Some(name) => format!("{name}.html{anchor}"),
        None => link.to_owned(),
    }
}

/// Returns the headings in order. The `id`s of equal headings get a number, as in mdBook.
pub(crate) fn headings(markdown: &str) -> Vec<Heading> {
    let mut all: Vec<Heading> = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for event in parse(markdown) {
        match event {
            Event::Start(Tag::Heading { level, .. }) => {
                open = Some((level as usize, String::new()));
            }
            Event::Text(part) | Event::Code(part) => {
                if let Some((_, text)) = &mut open {
                    text.push_str(&part);
                }
            }
            Event::End(TagEnd::Heading(_)) => {
                if let Some((level, text)) = open.take() {
                    let plain = id(&text);
                    let same = |heading: &&Heading| id(&heading.text) == plain;
                    let id = match all.iter().filter(same).count() {
                        0 => plain,
                        count => format!("{plain}-{count}"),
                    };
                    all.push(Heading { level, id, text });
                }
            }
            _ => {}
        }
    }
    all
}

fn id(text: &str) -> String {
    let kept = text.trim().chars().filter_map(|c| match c {
        c if c.is_alphanumeric() || matches!(c, '-' | '_') => Some(c.to_ascii_lowercase()),
        c if c.is_whitespace() => Some('-'),
        _ => None,
    });
    kept.collect()
}

/// Returns the targets of all links and images, as written.
pub(crate) fn links(markdown: &str) -> Vec<String> {
    let links = parse(markdown).filter_map(|event| match event {
        Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
            Some(dest_url.into_string())
        }
        _ => None,
    });
    links.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headings_have_unique_ids() {
        let text = "# One `two`\n\n## Losses, miners\n\n## Losses, miners\n";
        let ids: Vec<String> = headings(text).into_iter().map(|h| h.id).collect();
        assert_eq!(ids, ["one-two", "losses-miners", "losses-miners-1"]);
        let html = html(text);
        assert!(html.contains("<h2 id=\"losses-miners-1\">"), "{html}");
    }

    #[test]
    fn links_between_pages_end_in_html() {
        assert_eq!(address("data.md"), "data.html");
        assert_eq!(address("data.md#files"), "data.html#files");
        assert_eq!(address("#files"), "#files");
        assert_eq!(address("https://a.example/b.md"), "https://a.example/b.md");
    }

    #[test]
    fn hidden_lines_of_code_are_not_shown() {
        let html = html(
            "```rust,no_run\n# fn main() {\n#[test]\nlet a = 1;\n# }\n```\n\n```sh\n# a comment\n```\n",
        );
        assert!(!html.contains("fn main"), "{html}");
        assert!(html.contains("#[test]\nlet a = 1;\n<"), "{html}");
        assert!(html.contains("# a comment"), "{html}");
    }

    #[test]
    fn html_in_pages_is_escaped_and_styles_are_not_inlined() {
        let html =
            html("<script>x</script>\n\na <b>c</b>\n\n| a | b |\n| ---: | --- |\n| 1 | 2 |\n");
        assert!(html.contains("&lt;script&gt;"), "{html}");
        assert!(html.contains("&lt;b&gt;"), "{html}");
        assert!(!html.contains("style="), "{html}");
        assert!(
            html.contains("<div class=\"scroll\" tabindex=\"0\"><table>"),
            "{html}"
        );
    }
}
