//! Times: microseconds since 2000-01-01 UTC, as Postgres stores them, and `YYYY-MM-DDTHH:MM:SS.ffffffZ`
//! (format.md, "Envelope").

use pyo3::prelude::*;
use pyo3::types::{PyDateTime, PyTzInfo};

const MICROSECONDS: i64 = 1_000_000;
const DAY: i64 = 86_400 * MICROSECONDS;
/// 0001-01-01, and the last microsecond of 9999.
const FIRST: i64 = -730_119 * DAY;
const LAST: i64 = 2_921_940 * DAY - 1;
/// Days from 0000-03-01 to 2000-01-01 (proleptic Gregorian): where eras of 400 years are counted from.
const ERA_START: i64 = 730_425;
const ERA: i64 = 146_097;

/// A time of day on a date, in UTC.
pub struct Moment {
    pub year: i64,
    pub month: i64,
    pub day: i64,
    pub hour: i64,
    pub minute: i64,
    pub second: i64,
    pub microsecond: i64,
}

impl Moment {
    /// The moment of a stored time; None outside the years 0001-9999.
    pub fn from_stored(stored: i64) -> Option<Self> {
        if !(FIRST..=LAST).contains(&stored) {
            return None;
        }
        let days = stored.div_euclid(DAY);
        let in_day = stored.rem_euclid(DAY);
        let from_era = days + ERA_START;
        let era = from_era.div_euclid(ERA);
        let day_of_era = from_era.rem_euclid(ERA);
        // Years begin with March, so that the leap day is the last of a year.
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * day_of_year + 2) / 153;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
        let seconds = in_day / MICROSECONDS;
        Some(Self {
            year: era * 400 + year_of_era + i64::from(month <= 2),
            month,
            day: day_of_year - (153 * from_march + 2) / 5 + 1,
            hour: seconds / 3600,
            minute: seconds / 60 % 60,
            second: seconds % 60,
            microsecond: in_day % MICROSECONDS,
        })
    }

    /// The datetime. utc: datetime.UTC.
    pub fn to_python<'py>(&self, py: Python<'py>, utc: &Bound<'py, PyTzInfo>) -> PyResult<Bound<'py, PyAny>> {
        let made = PyDateTime::new(
            py,
            self.year as i32,
            self.month as u8,
            self.day as u8,
            self.hour as u8,
            self.minute as u8,
            self.second as u8,
            self.microsecond as u32,
            Some(utc),
        )?;
        Ok(made.into_any())
    }

    /// As Postgres stores it; None if it is no moment of the years 0001-9999.
    pub fn stored(&self) -> Option<i64> {
        let fits = (1..=9999).contains(&self.year)
            && (1..=12).contains(&self.month)
            && (1..=31).contains(&self.day)
            && (0..24).contains(&self.hour)
            && (0..60).contains(&self.minute)
            && (0..60).contains(&self.second)
            && (0..MICROSECONDS).contains(&self.microsecond);
        if !fits {
            return None;
        }
        let year = self.year - i64::from(self.month <= 2);
        let era = year.div_euclid(400);
        let year_of_era = year.rem_euclid(400);
        let from_march = (self.month + 9) % 12;
        let day_of_year = (153 * from_march + 2) / 5 + self.day - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let days = era * ERA + day_of_era - ERA_START;
        let seconds = self.hour * 3600 + self.minute * 60 + self.second;
        let stored = days * DAY + seconds * MICROSECONDS + self.microsecond;
        // A day that its month does not have comes back as one of the next month.
        let back = Self::from_stored(stored)?;
        (back.day == self.day && back.month == self.month).then_some(stored)
    }
}

/// A stored time as it stands in an envelope. False, and nothing written, outside the years 0001-9999.
pub fn push_timestamp(out: &mut Vec<u8>, stored: i64) -> bool {
    let Some(moment) = Moment::from_stored(stored) else { return false };
    push_digits(out, moment.year, 4);
    for (before, number) in
        [(b'-', moment.month), (b'-', moment.day), (b'T', moment.hour), (b':', moment.minute), (b':', moment.second)]
    {
        out.push(before);
        push_digits(out, number, 2);
    }
    out.push(b'.');
    push_digits(out, moment.microsecond, 6);
    out.push(b'Z');
    true
}

/// The stored time of such a text; None for anything else.
pub fn stored_of(text: &[u8]) -> Option<i64> {
    if text.len() != 27 || text[4] != b'-' || text[7] != b'-' || text[10] != b'T' || text[26] != b'Z' {
        return None;
    }
    if text[13] != b':' || text[16] != b':' || text[19] != b'.' {
        return None;
    }
    let number = |from: usize, to: usize| {
        text[from..to]
            .iter()
            .try_fold(0, |number, digit| digit.is_ascii_digit().then(|| number * 10 + i64::from(digit - b'0')))
    };
    let moment = Moment {
        year: number(0, 4)?,
        month: number(5, 7)?,
        day: number(8, 10)?,
        hour: number(11, 13)?,
        minute: number(14, 16)?,
        second: number(17, 19)?,
        microsecond: number(20, 26)?,
    };
    moment.stored()
}

fn push_digits(out: &mut Vec<u8>, number: i64, width: usize) {
    let mut digits = [b'0'; 6];
    let mut rest = number;
    for digit in digits[..width].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    out.extend_from_slice(&digits[..width]);
}
