//! Frames as an enemy would write them.

use super::*;

const CONTENT: &[u8] = b"content of a chunk, content of a chunk, content of a chunk";

fn fault(frame: &[u8]) -> FrameFault {
    match open_frame(Digest::of(CONTENT), frame) {
        Err(ChunkError::BadFrame { source, .. }) => source,
        other => panic!("{other:?}"),
    }
}

fn sealed(data: &[u8]) -> Vec<u8> {
    seal_frame(&RawChunk::new(data.to_vec())).expect("compresses").to_vec()
}

/// A frame whose header says this, with one raw block of `CONTENT` after it.
fn forged(descriptor: u8, fields: &[u8]) -> Vec<u8> {
    let mut frame = MAGIC.to_le_bytes().to_vec();
    frame.push(descriptor);
    frame.extend(fields);
    let block = u32::try_from(CONTENT.len()).expect("small") << 3 | 1;
    frame.extend(&block.to_le_bytes()[..3]);
    frame.extend(CONTENT);
    frame
}

const SINGLE_SEGMENT: u8 = 0b10_0000;

#[test]
fn a_frame_opens_only_under_its_own_name() {
    let frame = sealed(CONTENT);
    assert_eq!(open_frame(Digest::of(CONTENT), &frame).expect("opens"), CONTENT);
    assert!(matches!(open_frame(Digest::of(b"other"), &frame), Err(ChunkError::Mismatch { .. })));
}

#[test]
fn every_level_makes_frames_that_open_up_to_the_largest_chunk() {
    let noise = crate::testing::noise(MAX_CHUNK);
    for level in [Level::Fast, Level::Dense] {
        let mut sealer = Sealer::new(level).expect("memory");
        for data in [&noise[..], &noise[..1], &vec![0; MAX_CHUNK]] {
            let chunk = RawChunk::new(data.to_vec());
            let frame = sealer.seal(&chunk).expect("compresses");
            assert!(frame.len() <= MAX_FRAME);
            assert_eq!(open_frame(chunk.digest, &frame).expect("opens"), data);
        }
    }
}

#[test]
fn what_a_forger_writes_by_hand_would_open_if_it_were_right() {
    let length = u8::try_from(CONTENT.len()).expect("small");
    let right = forged(SINGLE_SEGMENT, &[length]);
    assert_eq!(open_frame(Digest::of(CONTENT), &right).expect("opens"), CONTENT);
    let windowed = forged(0b1000_0000, &[0, length, 0, 0, 0]);
    assert_eq!(open_frame(Digest::of(CONTENT), &windowed).expect("opens"), CONTENT);
}

#[test]
fn bombs_are_refused_by_what_they_declare_and_by_what_they_hold() {
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 19).expect("compresses");
    assert!(matches!(fault(&bomb), FrameFault::TooLarge(67_108_864)));
    // Ten gigabytes in one kilobyte, and more than there are.
    assert!(matches!(fault(&forged(0xE0, &(10_u64 << 30).to_le_bytes())), FrameFault::TooLarge(_)));
    assert!(matches!(fault(&forged(0xE0, &u64::MAX.to_le_bytes())), FrameFault::TooLarge(u64::MAX)));
    // It declares little and holds much: blocks of one repeated byte.
    let mut liar = MAGIC.to_le_bytes().to_vec();
    liar.extend([SINGLE_SEGMENT, 10]);
    for last in [0, 0, 0, 1_u32] {
        liar.extend(&(128_u32 << 10 << 3 | 1 << 1 | last).to_le_bytes()[..3]);
        liar.push(0);
    }
    assert!(matches!(fault(&liar), FrameFault::Zstd(_)));
}

#[test]
fn a_frame_that_holds_less_than_it_declares_is_refused() {
    let frame = forged(0xA0, &1_000_u32.to_le_bytes());
    assert!(matches!(fault(&frame), FrameFault::Zstd(_) | FrameFault::Truncated));
}

#[test]
fn a_frame_that_declares_nothing_or_that_nothing_is_in_it_is_refused() {
    assert!(matches!(fault(&forged(0, &[0])), FrameFault::Undeclared));
    assert!(matches!(fault(&sealed(b"")), FrameFault::Empty));
    let mut streamed = zstd::stream::Encoder::new(Vec::new(), 3).expect("memory");
    std::io::Write::write_all(&mut streamed, CONTENT).expect("compresses");
    assert!(matches!(fault(&streamed.finish().expect("compresses")), FrameFault::Undeclared));
}

#[test]
fn windows_that_nobody_must_have_are_refused() {
    let of_two_gigabytes = (31 - 10) << 3;
    let declared = forged(0b1000_0000, &[of_two_gigabytes, 58, 0, 0, 0]);
    assert!(matches!(fault(&declared), FrameFault::Window(0x8000_0000)));
    assert!(matches!(fault(&forged(0b1000_0000, &[0xFF, 58, 0, 0, 0])), FrameFault::Window(_)));
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).expect("memory");
    encoder.window_log(24).expect("a parameter");
    encoder.include_contentsize(true).expect("a parameter");
    std::io::Write::write_all(&mut encoder, CONTENT).expect("compresses");
    assert!(matches!(fault(&encoder.finish().expect("compresses")), FrameFault::Window(16_777_216)));
}

#[test]
fn dictionaries_are_refused() {
    for (flag, fields) in [(1, &[7, 58][..]), (2, &[7, 0, 58]), (3, &[7, 0, 0, 0, 58])] {
        assert!(matches!(fault(&forged(SINGLE_SEGMENT | flag, fields)), FrameFault::Dictionary(7)));
    }
    // Zero means none.
    let none = forged(SINGLE_SEGMENT | 1, &[0, 58]);
    assert_eq!(open_frame(Digest::of(CONTENT), &none).expect("opens"), CONTENT);
}

#[test]
fn one_plain_frame_is_all_there_may_be() {
    let frame = sealed(CONTENT);
    let skippable = |number: u32| {
        let mut frame = (SKIPPABLE + number).to_le_bytes().to_vec();
        frame.extend(4_u32.to_le_bytes());
        frame.extend(*b"skip");
        frame
    };
    assert!(matches!(fault(&[skippable(0), frame.clone()].concat()), FrameFault::Skippable));
    assert!(matches!(fault(&skippable(15)), FrameFault::Skippable));
    for after in [skippable(3), frame.clone(), sealed(b""), vec![0]] {
        assert!(matches!(fault(&[frame.clone(), after].concat()), FrameFault::Trailing));
    }
    assert!(matches!(fault(b""), FrameFault::NotZstd));
    assert!(matches!(fault(b"plain text"), FrameFault::NotZstd));
    assert!(matches!(fault(&forged(SINGLE_SEGMENT | 0b1000, &[58])), FrameFault::Unknown));
    assert!(matches!(fault(&vec![0; MAX_FRAME + 1]), FrameFault::TooLong(_)));
}

#[test]
fn a_frame_cut_anywhere_is_refused() {
    let frame = sealed(&crate::testing::noise(5_000));
    for length in 0..frame.len() {
        let refused = open_frame(Digest::of(CONTENT), &frame[..length]);
        assert!(matches!(refused, Err(ChunkError::BadFrame { .. })), "{length}: {refused:?}");
    }
}

#[test]
fn a_wrong_checksum_is_refused() {
    let mut compressor = zstd::bulk::Compressor::new(3).expect("memory");
    compressor.include_checksum(true).expect("a parameter");
    let mut frame = compressor.compress(CONTENT).expect("compresses");
    assert_eq!(open_frame(Digest::of(CONTENT), &frame).expect("opens"), CONTENT);
    *frame.last_mut().expect("a checksum") ^= 1;
    assert!(matches!(fault(&frame), FrameFault::Zstd("Restored data doesn't match checksum")));
}

proptest::proptest! {
    #[test]
    fn whatever_is_in_a_frame_it_opens_as_its_name_or_not_at_all(
        data in proptest::collection::vec(proptest::arbitrary::any::<u8>(), 1..2_000),
        at in proptest::arbitrary::any::<proptest::sample::Index>(),
        bits in 1_u8..,
    ) {
        let digest = Digest::of(&data);
        let mut frame = sealed(&data);
        let at = at.index(frame.len());
        frame[at] ^= bits;
        if let Ok(opened) = open_frame(digest, &frame) {
            proptest::prop_assert_eq!(opened, data);
        }
    }
}
