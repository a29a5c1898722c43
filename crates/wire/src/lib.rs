//! The compiled protocol and the only home of conversions between wire and core types.
