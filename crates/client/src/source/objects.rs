//! File contents from git's object store, through one `git cat-file --batch`.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout};

use super::git::{Git, GitError};
use super::pack::{Content, Contents, PackError};
use super::tree::Entry;

/// A running `git cat-file --batch`; ends with this value.
#[derive(Debug)]
pub(super) struct Objects {
    git: Git,
    child: Child,
    requests: Option<ChildStdin>,
    replies: BufReader<ChildStdout>,
    /// Bytes of the last reply, and its closing newline, that nobody has read.
    unread: u64,
}

impl Objects {
    /// Starts the process.
    pub(super) fn open(git: &Git) -> Result<Self, GitError> {
        let mut child = git.converse(["cat-file", "--batch"])?;
        let (Some(requests), Some(replies)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(git.unexpected("cat-file"));
        };
        let replies = BufReader::with_capacity(64 * 1024, replies);
        Ok(Self { git: git.clone(), child, requests: Some(requests), replies, unread: 0 })
    }

    /// Asks for one blob and reads the head of the reply: `<object> blob <size>`.
    fn request(&mut self, object: &str) -> io::Result<Option<u64>> {
        io::copy(&mut self.replies.by_ref().take(self.unread), &mut io::sink())?;
        self.unread = 0;
        let Some(requests) = &mut self.requests else { return Ok(None) };
        requests.write_all(format!("{object}\n").as_bytes())?;
        requests.flush()?;
        let mut head = Vec::new();
        self.replies.by_ref().take(256).read_until(b'\n', &mut head)?;
        let head = String::from_utf8_lossy(&head);
        let mut fields = head.trim_end().split(' ');
        let sound = fields.next() == Some(object) && fields.next() == Some("blob");
        let size = fields.next().and_then(|size| size.parse().ok()).filter(|_| sound);
        self.unread = size.map_or(0, |size: u64| size.saturating_add(1));
        Ok(size)
    }
}

impl Contents for Objects {
    fn open(&mut self, entry: &Entry) -> Result<Content<'_>, PackError> {
        let size = self.request(&entry.object).map_err(|source| PackError::read(entry, source))?;
        let Some(size) = size else {
            return Err(PackError::Git(self.git.unexpected("cat-file")));
        };
        Ok(Content { size, bytes: Box::new(Blob { objects: self, left: size }) })
    }
}

impl Drop for Objects {
    fn drop(&mut self) {
        // Without requests git ends by itself, unless it is stuck writing what nobody reads.
        self.requests.take();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One blob, counted so that the next request starts where this one ends.
struct Blob<'a> {
    objects: &'a mut Objects,
    left: u64,
}

impl Read for Blob<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.objects.replies.by_ref().take(self.left).read(buffer)?;
        self.left -= read as u64;
        self.objects.unread -= read as u64;
        Ok(read)
    }
}
