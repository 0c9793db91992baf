// What the operations view reads: the whole service's metrics for an operator, else one's own totals.

import * as api from "./api.js";

const SAMPLE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;

/** Prometheus text as a map from name to [{labels, value}]. */
export function parseMetrics(text) {
  const found = new Map();
  for (const line of text.split("\n")) {
    const match = line.startsWith("#") ? null : SAMPLE.exec(line);
    if (!match) continue;
    const labels = Object.fromEntries([...(match[2] ?? "").matchAll(LABEL)].map(([, name, value]) => [name, value]));
    if (!found.has(match[1])) found.set(match[1], []);
    found.get(match[1]).push({ labels, value: Number(match[3]) });
  }
  return found;
}

/** One reading: {at, whole, …figures}; what cannot be known is undefined. */
export async function read() {
  try {
    return ofMetrics(parseMetrics(await api.metrics()));
  } catch (error) {
    if (error.status !== 403) throw error;
    return ofStats(await api.stats());
  }
}

function ofMetrics(found) {
  const samples = (name) => found.get(`headstart_${name}`) ?? [];
  const sum = (name) => (found.has(`headstart_${name}`) ? samples(name).reduce((all, { value }) => all + value, 0) : undefined);
  const by = (name, label) => {
    const sums = {};
    for (const { labels, value } of samples(name)) sums[labels[label]] = (sums[labels[label]] ?? 0) + value;
    return sums;
  };
  return {
    at: Date.now() / 1000,
    whole: true,
    verdicts: by("cache_lookups_total", "verdict"),
    saved: sum("cache_saved_gpu_seconds_total"),
    spent: sum("gpu_seconds_total") + sum("given_up_gpu_seconds_total"),
    skipped: sum("cache_skipped_steps_total"),
    wasted: sum("cache_wasted_steps_total"),
    waiting: sum("queue_depth"),
    active: sum("active_jobs"),
    backlog: sum("backlog_seconds"),
    stepSeconds: sum("denoise_step_seconds_sum"),
    stepsTimed: sum("denoise_step_seconds_count"),
    ready: sum("engine_ready"),
    restarts: sum("engine_restarts_total"),
    refused: by("rejected_total", "reason"),
    failed: by("jobs_total", "status").failed,
    available: sum("cache_available"),
    entries: sum("cache_entries"),
    states: sum("cache_states"),
    bytes: by("cache_bytes", "tier"),
    evictions: sum("cache_evictions_total"),
    pending: sum("cache_pending_writes"),
    dropped: sum("cache_dropped_writes_total"),
    corrupt: sum("cache_corrupt_states_total"),
    repairs: sum("cache_repairs_total"),
    lag: sum("index_lag_events"),
  };
}

function ofStats(totals) {
  return {
    at: Date.now() / 1000,
    whole: false,
    verdicts: totals.verdicts,
    saved: totals.saved_gpu_seconds,
    spent: totals.gpu_seconds,
    skipped: totals.skipped_steps,
    wasted: totals.wasted_steps,
    ready: Number(totals.engine.ready),
    available: Number(totals.cache.available),
    entries: totals.cache.entries,
  };
}
