//! The machine, as `/proc` tells of it.

use std::fs;

/// One look at the machine. What cannot be read is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sample {
    /// Clock ticks of all processors: busy, and all.
    pub(super) cpu: Option<(u64, u64)>,
    pub(super) memory: Memory,
    pub(super) uptime: u64,
    /// Bytes received and sent.
    pub(super) net: (u64, u64),
    /// Bytes read and written.
    pub(super) disks: (u64, u64),
}

/// In bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) total: u64,
    pub(super) used: u64,
    pub(super) swap_total: u64,
    pub(super) swap_used: u64,
}

impl Sample {
    pub(super) fn take() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Self {
            cpu: cpu(&read("/proc/stat")),
            memory: memory(&read("/proc/meminfo")),
            uptime: uptime(&read("/proc/uptime")),
            net: net(&read("/proc/net/dev")),
            disks: disks(&read("/proc/diskstats")),
        }
    }

    /// Per cent of the processors that were busy since `earlier`; −1 if unknown.
    pub(super) fn cpu_since(&self, earlier: &Self) -> i64 {
        let (Some((busy, all)), Some((busy_then, all_then))) = (self.cpu, earlier.cpu) else {
            return -1;
        };
        let (busy, all) = (busy.saturating_sub(busy_then), all.saturating_sub(all_then));
        let percent = (busy.saturating_mul(100) + all / 2).checked_div(all);
        percent.map_or(-1, |percent| i64::try_from(percent.min(100)).unwrap_or(-1))
    }
}

/// Resident memory of this process, in bytes.
pub(crate) fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    kibibytes(&status, "VmRSS:")
}

fn cpu(stat: &str) -> Option<(u64, u64)> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    // user nice system idle iowait irq softirq steal; what follows is part of user and nice.
    let ticks: Vec<u64> = numbers(line).take(8).collect();
    let all: u64 = ticks.iter().sum();
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    (ticks.len() >= 4).then_some((all - idle, all))
}

fn memory(meminfo: &str) -> Memory {
    let total = kibibytes(meminfo, "MemTotal:");
    let swap_total = kibibytes(meminfo, "SwapTotal:");
    Memory {
        total,
        used: total.saturating_sub(kibibytes(meminfo, "MemAvailable:")),
        swap_total,
        swap_used: swap_total.saturating_sub(kibibytes(meminfo, "SwapFree:")),
    }
}

fn kibibytes(table: &str, name: &str) -> u64 {
    let line = table.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| numbers(line).next());
    number.unwrap_or(0).saturating_mul(1024)
}

fn uptime(text: &str) -> u64 {
    let seconds = text.split('.').next();
    seconds
        .and_then(|seconds| seconds.parse().ok())
        .unwrap_or(0)
}

fn net(dev: &str) -> (u64, u64) {
    let interfaces = dev.lines().filter_map(|line| line.split_once(':'));
    let counted = interfaces.filter(|(name, _)| name.trim() != "lo");
    sum(counted.map(|(_, columns)| {
        let mut columns = numbers(columns);
        (columns.next().unwrap_or(0), columns.nth(7).unwrap_or(0))
    }))
}

fn disks(diskstats: &str) -> (u64, u64) {
    /// What the kernel calls a sector here, whatever the disk's are.
    const SECTOR: u64 = 512;
    let rows = diskstats.lines().filter_map(|line| {
        let mut columns = line.split_whitespace().skip(2);
        let name = columns.next()?;
        let mut numbers = columns.map_while(|column| column.parse::<u64>().ok());
        let read = numbers.nth(2)?;
        let written = numbers.nth(3)?;
        is_disk(name).then_some((read.saturating_mul(SECTOR), written.saturating_mul(SECTOR)))
    });
    sum(rows)
}

/// Whether it is a disk: partitions and what lies on top of disks would be counted twice.
fn is_disk(name: &str) -> bool {
    let numbered = name.starts_with("nvme") || name.starts_with("mmcblk");
    let stacked = ["loop", "ram", "zram", "dm-", "md", "sr", "fd"];
    if stacked.iter().any(|prefix| name.starts_with(prefix)) {
        return false;
    }
    if numbered {
        // nvme0n1p2, mmcblk0p1
        let tail = name.trim_end_matches(|char: char| char.is_ascii_digit());
        return !tail.ends_with('p') && !name.contains("boot");
    }
    !name.ends_with(|char: char| char.is_ascii_digit())
}

fn sum(pairs: impl Iterator<Item = (u64, u64)>) -> (u64, u64) {
    pairs.fold((0, 0), |(a, b), (c, d)| {
        (a.saturating_add(c), b.saturating_add(d))
    })
}

fn numbers(text: &str) -> impl Iterator<Item = u64> {
    text.split_whitespace().map_while(|word| word.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_busy_when_they_are_neither_idle_nor_waiting_for_disks() {
        let then = cpu("cpu  10 0 10 70 10 0 0 0 5 5\ncpu0 1 1 1 1\n");
        let now = cpu("cpu  20 0 20 130 20 5 5 0 9 9\n");
        assert_eq!((then, now), (Some((20, 100)), Some((50, 200))));
        let sample = |cpu| Sample {
            cpu,
            ..Sample::default()
        };
        assert_eq!(sample(now).cpu_since(&sample(then)), 30);
        assert_eq!(sample(now).cpu_since(&sample(now)), -1);
        assert_eq!(sample(now).cpu_since(&sample(None)), -1);
        assert_eq!(cpu("intr 1"), None);
    }

    #[test]
    fn memory_that_can_be_had_is_not_in_use() {
        let text = "MemTotal:  100 kB\nMemFree: 1 kB\nMemAvailable: 60 kB\nSwapTotal: 8 kB\nSwapFree: 5 kB\n";
        let expected = Memory {
            total: 102_400,
            used: 40_960,
            swap_total: 8192,
            swap_used: 3072,
        };
        assert_eq!(memory(text), expected);
        assert_eq!(memory(""), Memory::default());
    }

    #[test]
    fn loopback_does_not_count() {
        let text = "Inter-|\n face |bytes\n    lo: 9 0 0 0 0 0 0 0 9 0\n  eth0: 100 1 0 0 0 0 0 0 20 2 0\n  wl:1 0 0 0 0 0 0 0 2\n";
        assert_eq!(net(text), (101, 22));
    }

    #[test]
    fn whole_disks_count_once() {
        let text = "   8 0 sda 1 0 10 0 1 0 20 0 0 0 0\n   8 1 sda1 1 0 10 0 1 0 20 0 0 0 0\n 259 0 nvme0n1 1 0 1 0 1 0 2 0 0\n 259 1 nvme0n1p1 1 0 1 0 1 0 2 0\n 7 0 loop0 1 0 9 0 1 0 9 0\n";
        assert_eq!(disks(text), (11 * 512, 22 * 512));
    }

    #[test]
    fn this_machine_can_be_read() {
        let sample = Sample::take();
        assert!(sample.cpu.is_some() && sample.memory.total > 0 && sample.memory.used > 0);
        assert!(sample.uptime > 0 && resident() > 0);
    }
}
