//! Rows of files in every encoding and dialect.

use super::*;
use crate::source::Fault;

fn rows(bytes: &[u8], options: &CsvOptions) -> Result<Vec<Record>, Error> {
    let input = Input::read(bytes, "the CSV reader")?;
    let reading = CsvTable::new(input, options.clone(), "the CSV text".to_owned());
    let rows = reading?.records()?;
    let error = |fault| match fault {
        Fault::Row(problem) => Error::row(problem.number, problem.reason),
        Fault::End(error) => error,
    };
    rows.map(|row| row.map_err(error)).collect()
}

fn read(bytes: &[u8], options: &CsvOptions) -> Vec<Vec<String>> {
    let rows = rows(bytes, options).unwrap();
    rows.into_iter().map(|row| row.cells).collect()
}

fn lines(text: &str) -> Vec<u64> {
    let rows = rows(text.as_bytes(), &CsvOptions::new()).unwrap();
    rows.into_iter().map(|row| row.line).collect()
}

/// Returns the line and the reason of the error that ends the reading.
fn broken(bytes: &[u8]) -> (u64, String) {
    let error = rows(bytes, &CsvOptions::new().encoding("utf-8")).unwrap_err();
    let problem = error
        .problems()
        .unwrap_or_else(|| panic!("{error}"))
        .problems[0]
        .clone();
    (problem.number, problem.reason)
}

#[test]
fn every_common_encoding_and_line_end_gives_the_same_rows() {
    let text = "größe,€ 5\r\nb,\"c, d\"\r\n";
    let rows = [["größe", "€ 5"], ["b", "c, d"]];
    let utf16 = |to: fn(u16) -> [u8; 2], mark: &[u8]| {
        let units = text.encode_utf16().flat_map(to);
        mark.iter().copied().chain(units).collect::<Vec<u8>>()
    };
    let options = CsvOptions::new();
    let with_mark = [b"\xef\xbb\xbf", text.as_bytes()].concat();
    assert_eq!(read(text.as_bytes(), &options), rows);
    assert_eq!(read(text.replace('\r', "").as_bytes(), &options), rows);
    assert_eq!(read(text.replace('\n', "").as_bytes(), &options), rows);
    assert_eq!(read(&with_mark, &options), rows);
    assert_eq!(read(&utf16(u16::to_le_bytes, b"\xff\xfe"), &options), rows);
    assert_eq!(read(&utf16(u16::to_be_bytes, b"\xfe\xff"), &options), rows);
    let unmarked = CsvOptions::new().encoding("utf_16_le");
    assert_eq!(read(&utf16(u16::to_le_bytes, b""), &unmarked), rows);
    let latin = b"gr\xf6\xdfe,b\n";
    let options = CsvOptions::new().encoding("latin-1");
    assert_eq!(read(latin, &options), [["größe", "b"]]);
}

#[test]
fn a_wrong_encoding_is_an_error_with_its_line() {
    assert_eq!(broken(b"a,b\ngr\xf6\xdfe,b\n").0, 2);
    assert!(broken(b"a,b\ngr\xf6\xdfe,b\n").1.contains("latin-1"));
    // A replacement character of the file is valid, and CRLF is one line end.
    let text = "an old \u{fffd} sign,a\r\nfine,b\r\n".as_bytes();
    assert_eq!(broken(&[text, b"gr\xf6\xdfe,c\r\n"].concat()).0, 3);
    let unmarked: Vec<u8> = "red,dress\n"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let (line, reason) = broken(&unmarked);
    assert!(line == 1 && reason.contains("utf-16le"), "{reason}");
    // Without the option, the encoding is detected.
    let options = CsvOptions::new();
    assert_eq!(read(b"a,b\ngr\xf6\xdfe,c\n", &options)[1], ["größe", "c"]);
    assert_eq!(read(&unmarked, &options), [["red", "dress"]]);
    let mixed = [text, b"gr\xf6\xdfe,c\r\n"].concat();
    let error = rows(&mixed, &options).unwrap_err();
    assert_eq!(error.problems().unwrap().problems[0].number, 3);
    // Bytes above 127 are not ASCII, although the web reads them as windows-1252.
    let ascii = CsvOptions::new().encoding("ascii");
    assert_eq!(read(b"a,b\nc,d\n", &ascii), [["a", "b"], ["c", "d"]]);
    let error = rows("a,b\ngröße,c\n".as_bytes(), &ascii).unwrap_err();
    assert!(error.to_string().contains("2: it is not ASCII"), "{error}");
    let error = rows(b"a", &CsvOptions::new().encoding("klingon")).unwrap_err();
    assert!(error.to_string().contains("klingon"), "{error}");
}

#[test]
fn a_header_with_the_given_names_is_skipped() {
    let options = CsvOptions::new().header(["image", "title"]);
    assert_eq!(read(b"image,title\na,b\n", &options), [["a", "b"]]);
    assert_eq!(
        read(b"\xef\xbb\xbf\"image\",\"title\"\r\na,b\n", &options),
        [["a", "b"]]
    );
    let error = rows(b"picture,title\na,b\n", &options).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("`picture, title`, expected `image, title`"),
        "{error}"
    );
}

#[test]
fn the_delimiter_hint_of_excel_is_not_a_row() {
    let options = CsvOptions::new();
    let rows = [["a red dress", "dress"], ["a, b", "shoe"]];
    assert_eq!(
        read(b"sep=;\r\na red dress;dress\r\na, b;shoe\r\n", &options),
        rows
    );
    assert_eq!(lines("sep=;\r\na;b\r\nc;d\r\n"), [2, 3]);
    let options = CsvOptions::new().header(["a", "b"]);
    assert_eq!(
        read(b"\xef\xbb\xbfsep=\t\na\tb\nc\td\n", &options),
        [["c", "d"]]
    );
}

#[test]
fn rows_are_limited_and_sampled_repeatably() {
    let text: String = (0..1000).map(|n| format!("a{n},b\n")).collect();
    let count = |options: CsvOptions| rows(text.as_bytes(), &options).unwrap().len();
    assert_eq!(count(CsvOptions::new()), 1000);
    assert_eq!(count(CsvOptions::new().size(7)), 7);
    let half = CsvOptions::new().sampling_rate(0.5);
    assert!((350..650).contains(&count(half.clone())));
    let reading = CsvTable::new(
        Input::Bytes(text.as_bytes().into()),
        half,
        "the CSV text".to_owned(),
    )
    .unwrap();
    let sampled = || {
        reading
            .records()
            .unwrap()
            .map(|row| row.unwrap().line)
            .collect::<Vec<_>>()
    };
    assert_eq!(sampled(), sampled());
    for bytes in [&b""[..], b"\n\n", b"\xef\xbb\xbf"] {
        assert!(
            rows(bytes, &CsvOptions::new())
                .unwrap_err()
                .problems()
                .is_some()
        );
    }
    for rate in [2.0, -0.1, f64::NAN] {
        let error = rows(b"a", &CsvOptions::new().sampling_rate(rate)).unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{error:?}");
        assert!(error.to_string().contains("sampling_rate"), "{error}");
    }
}

#[test]
fn spaces_and_quotes_follow_the_dialect() {
    let dialect = |escape, skip_initial_space| {
        CsvOptions::new().dialect(Dialect::Custom {
            delimiter: b';',
            quote: b'\'',
            escape,
            skip_initial_space,
        })
    };
    assert_eq!(
        read(b"a; 'b; ''c'''\n", &dialect(None, true)),
        [["a", "b; 'c'"]]
    );
    let escaped = dialect(Some(b'\\'), false);
    assert_eq!(read(b"a;'b\\'c'\n", &escaped), [["a", "b'c"]]);
    // As in Python's `csv` module, an escaped quote neither opens nor closes a cell.
    let both = dialect(Some(b'\\'), true);
    assert_eq!(
        read(b"a; 'b\\'; c';  d\n  e\\;f; g\\' h;i\n", &both),
        [["a", "b'; c", "d"], ["e;f", "g' h", "i"]]
    );
}

#[test]
fn rows_have_the_line_numbers_of_the_file() {
    assert_eq!(lines("a,x\r\nb,y\r\n\r\nc,z"), [1, 2, 4]);
    assert_eq!(lines("a,x\rb,y\r\rc,z\r"), [1, 2, 4]);
    assert_eq!(lines("\n\na,x\n\n\nb,y\n"), [3, 6]);
    assert_eq!(
        lines("\"a\r\nb\",x\r\n\"c\n\nd\",y\r\n\"e\",z\r\n"),
        [1, 3, 6]
    );
    assert_eq!(lines("a\u{2028}b,x\nc\u{b}d\u{85},y\n"), [1, 2]);
    let long = format!("{},x\nb,y\n", "word ".repeat(60_000));
    assert_eq!(lines(&long), [1, 2]);
}

#[test]
fn a_text_that_looks_like_rows_is_a_cell_if_a_dialect_is_given() {
    let lines = "a line, of a poem\n".repeat(60);
    let text = format!("text,label\n\"{lines}\",poem\n");
    let (line, reason) = broken(text.as_bytes());
    assert_eq!(line, 2);
    assert!(reason.contains("Dialect::Excel"), "{reason}");
    let excel = CsvOptions::new().dialect(Dialect::Excel);
    let rows = read(text.as_bytes(), &excel);
    assert_eq!(rows, [["text", "label"], [lines.as_str(), "poem"]]);
}

#[test]
fn an_unclosed_quote_is_an_error_with_its_line() {
    let rows: String = (0..3000).map(|n| format!("text {n},label\n")).collect();
    // The quote ends at the end of the file, at an opening quote, and at a closing one.
    for end in ["", "\"a, b\",label\n", "five inches 5\",label\n"] {
        let text = format!("a,b\n\"a red dress,dress\n{rows}{end}");
        let (line, reason) = broken(text.as_bytes());
        assert_eq!(line, 2, "{reason}");
        assert!(
            reason.contains("quote") && reason.contains("a red dress"),
            "{reason}"
        );
        assert!(reason.len() < 400, "{reason}");
    }
    // A text of many lines is one cell.
    let page = format!(
        "\"{}\",page\nb,c\n",
        "a line, of two, commas\n".repeat(3000)
    );
    assert_eq!(read(page.as_bytes(), &CsvOptions::new()).len(), 2);
    assert_eq!(read(b"\"a\" b,c\n", &CsvOptions::new()), [["a b", "c"]]);
}
