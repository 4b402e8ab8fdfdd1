//! Points in time as they are typed and shown: RFC 3339.

use server::restore::Until as ServerUntil;

/// Where a restore stops.
pub(crate) type Until = ServerUntil;

/// An index, `@seconds` since 1970, or a time like `2026-03-01T12:00:00Z`.
pub(crate) fn until(text: &str) -> Result<Until, String> {
    if let Ok(index) = text.parse() {
        return Ok(Until::Index(index));
    }
    let clock_ms = match text.strip_prefix('@') {
        Some(seconds) => unix(seconds),
        None => rfc3339(text),
    };
    clock_ms.map(Until::ClockMs).ok_or_else(|| {
        format!(
            "`{text}` is no point in time: write an index like 123456, a time like \
             2026-03-01T12:00:00Z or 2026-03-01T12:00:00.250+02:00, or seconds since 1970 like @1772366400"
        )
    })
}

/// Milliseconds since 1970 of `seconds` or `seconds.fraction`.
fn unix(text: &str) -> Option<u64> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    digits(seconds)?.checked_mul(1000)?.checked_add(millis(fraction)?)
}

fn rfc3339(text: &str) -> Option<u64> {
    let bytes = text.as_bytes();
    let separated = text.is_ascii()
        && bytes.len() >= 20
        && [4, 7].iter().all(|at| bytes[*at] == b'-')
        && matches!(bytes[10], b'T' | b't' | b' ')
        && [13, 16].iter().all(|at| bytes[*at] == b':');
    if !separated {
        return None;
    }
    let field = |from: usize, to: usize| digits(&text[from..to]).map(|number| number as i64);
    let (year, month, day) = (field(0, 4)?, field(5, 7)?, field(8, 10)?);
    let (hour, minute, second) = (field(11, 13)?, field(14, 16)?, field(17, 19)?);
    // A leap second counts as the one after.
    let possible = (1..=12).contains(&month)
        && (1..=days_of(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60;
    let (zone, fraction) = match text[19..].strip_prefix('.') {
        None => (&text[19..], 0),
        Some(rest) => {
            let end = rest.find(|c: char| !c.is_ascii_digit())?;
            (&rest[end..], millis(&rest[..end])?)
        }
    };
    let offset = match zone {
        "Z" | "z" => 0,
        _ => {
            let sign = if zone.starts_with('+') { 1 } else { -1 };
            let (hours, minutes) = zone.strip_prefix(['+', '-'])?.split_once(':')?;
            let (hours, minutes) = (digits(hours)? as i64, digits(minutes)? as i64);
            if hours >= 24 || minutes >= 60 {
                return None;
            }
            sign * (hours * 60 + minutes) * 60
        }
    };
    let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset;
    let seconds = u64::try_from(seconds).ok().filter(|_| possible)?;
    Some(seconds * 1000 + fraction)
}

fn digits(text: &str) -> Option<u64> {
    let all = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| all)
}

/// Of a fraction's digits, the first three count.
fn millis(text: &str) -> Option<u64> {
    digits(text)?;
    format!("{text:0<3}")[..3].parse().ok()
}

fn days_of(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 on, in the Gregorian calendar. Years begin in March
/// here, so that the leap day is their last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, in_era) = (year.div_euclid(400), year.rem_euclid(400));
    let in_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + in_era * 365 + in_era / 4 - in_era / 100 + in_year - 719_468
}

/// A time as it is shown; `never` for 0.
pub(crate) fn shown(unix_ms: u64) -> String {
    if unix_ms == 0 {
        return "never".to_owned();
    }
    let (seconds, ms) = (unix_ms / 1000, unix_ms % 1000);
    let (day, rest) = ((seconds / 86_400) as i64 + 719_468, seconds % 86_400);
    let (era, in_era) = (day.div_euclid(146_097), day.rem_euclid(146_097));
    let year = (in_era - in_era / 1460 + in_era / 36_524 - in_era / 146_096) / 365;
    let in_year = in_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * in_year + 2) / 153;
    let date = in_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_standard() {
        for (text, ms) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T23:59:59Z", 951_868_799_000),
            ("2026-03-01T12:00:00Z", 1_772_366_400_000),
            ("2026-03-01t12:00:00.25z", 1_772_366_400_250),
            ("2026-03-01T14:00:00.123456+02:00", 1_772_366_400_123),
            ("2026-03-01 10:30:00-01:30", 1_772_366_400_000),
            ("@1772366400", 1_772_366_400_000),
            ("@1772366400.5", 1_772_366_400_500),
        ] {
            assert_eq!(until(text), Ok(Until::ClockMs(ms)), "{text}");
        }
        assert_eq!(until("1772366400"), Ok(Until::Index(1_772_366_400)));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for bad in [
            "",
            "-1",
            "@",
            "@x",
            "@1.",
            "noon",
            "2026-03-01",
            "2026-03-01T12:00:00",
            "2026-02-29T12:00:00Z",
            "2026-13-01T12:00:00Z",
            "2026-03-01T24:00:00Z",
            "2026-03-01T12:00:00.Z",
            "2026-03-01T12:00:00+2:0x",
            "1969-12-31T23:59:59Z",
            "2026-03-01T12:00:0\u{e9}Z",
        ] {
            assert!(until(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_shown_is_read_back() {
        for ms in [1, 951_868_799_001, 1_772_366_400_250, 4_102_444_800_000] {
            assert_eq!(until(&shown(ms)), Ok(Until::ClockMs(ms)), "{}", shown(ms));
        }
        assert_eq!(shown(0), "never");
    }
}
