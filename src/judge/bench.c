#include "judge/bench.h"

#include <math.h>
#include <string.h>

#include "core/context.h"

/* ---- Scores ---------------------------------------------------------------------------------------------- */

static void score_row(fk_bench_row *row) {
  double base = 0, cand = 0;
  for (int i = 0; i < row->num_results; i++) {
    const fk_case_result *r = &row->results[i];
    row->failed |= fk_verdict_failed(r->verdict);
    double time = (double)r->c->count * r->timing.baseline_ns;
    /* The paired ratio is what was measured; the medians of the arms only weigh it. A ratio that noise could have made
     * counts as 1: on a busy machine it may be anything. */
    double speedup = r->verdict == FK_VERDICT_SAME ? 1 : r->timing.speedup.middle;
    base += time;
    cand += speedup > 0 ? time / speedup : 0;
  }
  row->score = !row->failed && cand > 0 ? base / cand : 1;
  row->seconds_saved = row->failed ? 0 : (base - cand) * 1e-9;
}

static void score_all(fk_bench *b) {
  double sum = 0;
  int tasks = 0;
  for (int i = 0; i < b->num_rows; i++) {
    const fk_bench_row *row = &b->rows[i];
    b->num_failed += row->failed;
    bool first = row->job != NULL;
    for (int k = 0; k < i && first; k++) first = b->rows[k].job != row->job;
    if (!first) continue;
    double best = 0;
    for (int k = i; k < b->num_rows; k++)
      if (b->rows[k].job == row->job && !b->rows[k].failed && b->rows[k].score > best) best = b->rows[k].score;
    sum += log(best > 0 ? best : 1);
    tasks++;
  }
  b->overall = tasks ? exp(sum / tasks) : 1;
}

/* ---- Running --------------------------------------------------------------------------------------------- */

static void progress(const fk_bench *b, const fk_bench_row *row, int i) {
  if (!b->progress) return;
  fprintf(b->progress, "\r\033[K%s: %s, case %d of %d", row->candidate ? row->candidate->name : "baseline",
          row->job->task->name, i + 1, row->job->count);
  fflush(b->progress);
}

static fk_status run_row(fk_arena *arena, fk_bench *b, fk_context *ref, fk_bench_row *row) {
  row->results = fk_arena_calloc(arena, (size_t)row->job->count, sizeof *row->results);
  if (!row->results) return FK_ERROR_MEMORY;
  for (int i = 0; i < row->job->count; i++) {
    const char *object = row->candidate ? row->candidate->object : NULL;
    progress(b, row, i);
    FK_TRY(fk_grade_case(row->job->cases[i], object, &b->options, ref, &row->results[i]));
    row->num_results++;
    /* What does not load once will not load again, and one hang is enough to wait for. */
    if (row->results[i].verdict == FK_VERDICT_REFUSED || row->results[i].verdict == FK_VERDICT_TIMEOUT) break;
  }
  score_row(row);
  return FK_OK;
}

static fk_bench_row *add_row(fk_bench *b, const fk_candidate *c, const fk_job *job) {
  if (b->num_rows == FK_MAX_ROWS) return NULL;
  b->rows[b->num_rows] = (fk_bench_row){.candidate = c, .job = job, .score = 1};
  return &b->rows[b->num_rows++];
}

/* Rows of one candidate: one per task that it exports and the workload holds. */
static fk_status add_candidate(fk_bench *b, const fk_candidate *c) {
  int before = b->num_rows;
  if (*c->refused) {
    fk_bench_row *row = add_row(b, c, NULL);
    if (!row) return FK_OK;
    row->failed = true;
    snprintf(row->reason, sizeof row->reason, "%s", c->refused);
    return FK_OK;
  }
  for (int t = 0; t < c->num_tasks; t++)
    for (int j = 0; j < b->workload->num_jobs; j++)
      if (b->workload->jobs[j].task == c->tasks[t]) add_row(b, c, &b->workload->jobs[j]);
  if (b->num_rows > before) return FK_OK;
  return fk_fail(FK_ERROR_ARGUMENT, "%s: none of the tasks it exports (%s%s) is in %s", c->name, c->tasks[0]->name,
                 c->num_tasks > 1 ? ", ..." : "", b->workload->source);
}

fk_status fk_bench_run(fk_arena *arena, fk_bench *b) {
  fk_context_options options = {.backend = FK_REF, .num_threads = b->options.limits.threads};
  fk_context *ref;
  for (int i = 0; i < b->num_candidates; i++) FK_TRY(add_candidate(b, &b->candidates[i]));
  for (int j = 0; b->num_candidates == 0 && j < b->workload->num_jobs; j++) add_row(b, NULL, &b->workload->jobs[j]);
  if (b->num_rows == 0) return fk_fail(FK_ERROR_ARGUMENT, "%s: there is nothing to judge", b->workload->source);
  FK_TRY(fk_context_create(&options, &ref));
  fk_status status = FK_OK;
  for (int i = 0; i < b->num_rows && !status; i++)
    if (b->rows[i].job) status = run_row(arena, b, ref, &b->rows[i]);
  fk_context_destroy(ref);
  if (b->progress) fputs("\r\033[K", b->progress);
  if (!status) score_all(b);
  return status;
}
