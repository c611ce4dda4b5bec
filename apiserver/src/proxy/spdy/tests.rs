use super::*;

#[tokio::test]
async fn frames_are_spdys() {
    let mut out = Vec::new();
    let mut writer = Writer::new(&mut out);
    assert_eq!(writer.open(&[("streamtype", "stdin")]).await.unwrap(), 1);
    assert_eq!(writer.open(&[("streamtype", "error")]).await.unwrap(), 3);
    writer.data(1, b"hi", false).await.unwrap();
    writer.data(1, b"", true).await.unwrap();
    writer.pong(7).await.unwrap();

    // Both header blocks are one zlib stream.
    assert_eq!(out[..5], [0x80, 3, 0, 1, 0]);
    let length = |at: usize| u32::from_be_bytes([0, out[at + 5], out[at + 6], out[at + 7]]) as usize;
    let (first, second) = (length(0), length(8 + length(0)));
    let at = 8 + first;
    let mut plain = Vec::with_capacity(1000);
    let mut inflate = flate2::Decompress::new(true);
    let mut read = |block: &[u8]| {
        inflate.decompress_vec(block, &mut plain, flate2::FlushDecompress::Sync).unwrap();
    };
    read(&out[18..at]);
    read(&out[at + 18..at + 8 + second]);
    let pair = |value: &[u8]| [&[0, 0, 0, 1, 0, 0, 0, 10][..], b"streamtype", &[0, 0, 0, 5], value].concat();
    assert_eq!(plain, [pair(b"stdin"), pair(b"error")].concat());
    let rest = [
        &[0, 0, 0, 1, 0, 0, 0, 2][..],
        b"hi",
        &[0, 0, 0, 1, 1, 0, 0, 0],
        &[0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 7],
    ];
    assert_eq!(out[at + 8 + second..], rest.concat());
}

async fn events(bytes: &[u8]) -> Vec<Result<Event, io::ErrorKind>> {
    let mut reader = Reader::new(bytes);
    let mut events = Vec::new();
    loop {
        match reader.next().await {
            Ok(None) => return events,
            Ok(Some(event)) => events.push(Ok(event)),
            Err(error) => {
                events.push(Err(error.kind()));
                return events;
            }
        }
    }
}

#[tokio::test]
async fn frames_become_events() {
    let data =
        |stream, data: &'static [u8], end| Ok(Event::Data { stream, data: Bytes::from_static(data), end });
    let reply = [0x80, 3, 0, 2, 0, 0, 0, 4, 0, 0, 0, 1];
    let plain = [&reply[..], &[0, 0, 0, 5, 0, 0, 0, 2], b"ab", &[0, 0, 0, 5, 1, 0, 0, 0]].concat();
    assert_eq!(events(&plain).await, [data(5, b"ab", false), data(5, b"", true)]);
    let control = [
        &[0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 9, 0, 0, 0, 5][..],
        &[0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 2],
        &[0x80, 3, 0, 7, 0, 0, 0, 8, 0, 0, 0, 9, 0, 0, 0, 0],
    ];
    let want = [Ok(Event::Reset { stream: 9 }), Ok(Event::Ping(2)), Ok(Event::GoAway)];
    assert_eq!(events(&control.concat()).await, want);

    let mut large = vec![0, 0, 0, 1, 1, 1, 0, 0];
    large.extend(vec![b'x'; 1 << 16]);
    let pieces = events(&large).await;
    let ends: Vec<bool> = pieces.iter().map(|e| matches!(e, Ok(Event::Data { end: true, .. }))).collect();
    assert_eq!(ends, [false, true]);

    assert_eq!(events(&[0x80, 2, 0, 1, 0, 0, 0, 0]).await, [Err(io::ErrorKind::InvalidData)]);
    assert_eq!(events(&[0x80, 3, 0, 1, 0, 1, 0, 1]).await, [Err(io::ErrorKind::InvalidData)]);
    assert_eq!(events(&[0, 0, 0]).await, [Err(io::ErrorKind::UnexpectedEof)]);
}
