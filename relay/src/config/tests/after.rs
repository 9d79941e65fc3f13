//! What becomes of published rows.

use super::*;
use crate::archive::After;

#[test]
fn what_becomes_of_published_rows() {
    let archive = GOOD.replace("[source.main]", "[source.main]\nafter = \"archive\"");
    let config = with(&archive, &[]).unwrap();
    let after = |config: &Config| config.settings(&config.source["main"]).after;
    assert_eq!(after(&config), After::Archive { keep: Duration::from_secs(604_800) });
    assert!(config.to_string().contains("after = \"archive\"\narchive_for_s = 604800\n"), "{config}");
    let kept = ("BARID_RELAY__SOURCE__MAIN__ARCHIVE_FOR_S", "60");
    assert_eq!(after(&with(&archive, &[kept]).unwrap()), After::Archive { keep: Duration::from_secs(60) });
    let plain = with(GOOD, &[]).unwrap();
    assert!(after(&plain) == After::Delete && !plain.to_string().contains("archive_for_s"), "{plain}");
    check(GOOD, &[kept], &["ARCHIVE_FOR_S: archive_for_s in [source.main] means nothing without after"]);
    let zero = archive.replace("after = ", "archive_for_s = 0\nafter = ");
    check(&zero, &[], &["relay.toml:3: archive_for_s in [source.main] must be between 1 and"]);
    let wrong = archive.replace("\"archive\"", "\"keep\"");
    check(
        &wrong,
        &[],
        &["relay.toml:3: source.main.after: unknown variant `keep`, expected `delete` or `archive`"],
    );
}
