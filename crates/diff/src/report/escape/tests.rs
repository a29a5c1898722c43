use proptest::prelude::*;

use super::*;

#[test]
fn terminal_sequences_vanish_and_text_stays() {
    assert_eq!(clean("\u{1b}[1;31merror:\u{1b}[0m bad"), "error: bad");
    assert_eq!(clean("\u{1b}]8;;https://x\u{1b}\\link\u{1b}]8;;\u{7}!"), "link!");
    assert_eq!(clean("a\u{9b}31mb\u{1b}(Bc\u{1b}"), "abc");
    assert_eq!(clean("10%\r20%\r\ndone\n"), "10%\n20%\ndone\n");
    assert_eq!(clean("nul\0bell\u{7}"), "nul\u{fffd}bell\u{fffd}");
    assert_eq!(clean("evil\u{202e}gnp.exe\u{200b}"), "evil<U+202E>gnp.exe<U+200B>");
}

#[test]
fn running_text_is_never_markup() {
    assert_eq!(inline("a|b `c` <img> @root #12"), "a&#124;b &#96;c&#96; &lt;img&gt; @&#8203;root #&#8203;12");
    assert_eq!(inline("*bold* [x](y) snake_case _it_"), "\\*bold\\* \\[x\\](y) snake_case \\_it\\_");
    assert_eq!(inline("# heading"), "#&#8203; heading");
    assert_eq!(inline("- item\n1. one"), "\\- item 1. one");
    assert_eq!(inline("1. one"), "1\\. one");
}

#[test]
fn names_are_code_whatever_they_hold() {
    assert_eq!(code("python3.12-foo_bar+x"), "`python3.12-foo_bar+x`");
    assert_eq!(code("a|b`c"), "<code>a&#124;b&#96;c</code>");
    assert_eq!(code("</code>@x"), "<code>&#60;/code&#62;&#64;x</code>");
    assert_eq!(code(""), "<code></code>");
}

#[test]
fn a_fence_outlasts_what_it_holds() {
    assert_eq!(fenced("ok\n", 5), "```text\nok\n```\n");
    assert_eq!(fenced("a\n````\nb", 5), "`````text\na\n````\nb\n`````\n");
    assert_eq!(fenced("1\n2\n3\n4", 2), "```text\n… 2 lines before this\n3\n4\n```\n");
}

proptest! {
    #[test]
    fn a_cell_stays_one_cell(text in "(.{0,40}|[|`\\\\<>@\u{1b}\\[a-z\r\n]{0,40})") {
        for cell in [inline(&text), code(&text), html_code(&text)] {
            prop_assert!(!cell.contains(['|', '\n', '\r', '\u{1b}']), "{cell:?}");
        }
        prop_assert!(!inline(&text).contains(['`', '<', '>', '\\']) || inline(&text).contains('\\'));
        prop_assert!(!html_code(&text).trim_start_matches("<code>").trim_end_matches("</code>").contains(['<', '>', '`', '@']));
        prop_assert_eq!(code(&text).matches('`').count() % 2, 0);
    }

    #[test]
    fn a_fence_is_closed_only_at_its_end(text in "([`~a\n]{0,30}|.{0,30}\n.{0,30})", most in 0usize..4) {
        let fenced = fenced(&text, most);
        let fence: String = fenced.chars().take_while(|&char| char == '`').collect();
        prop_assert_eq!(fenced.matches(fence.as_str()).count(), 2);
        let end = format!("\n{fence}\n");
        prop_assert!(fenced.ends_with(&end));
        prop_assert!(fenced.chars().all(|char| char == '\n' || char == '\t' || !char.is_control()));
    }
}
