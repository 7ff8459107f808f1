/**
 * The clock for intervals that include the time during which the device sleeps.
 *
 * Date.now() goes back or jumps ahead when the system time is set. performance.now() does neither, but it stops while the
 * device sleeps on most systems. Intervals that need not include sleep, such as the rate limit, use performance.now().
 */

import { CLOCK_TOLERANCE } from "./constants.js";

/** What performance.now() lacks, in milliseconds. */
let slept = 0;
/** Date.now() minus performance.now(): it grows while only performance.now() stops. */
let offset = 0;

/**
 * Return a time in milliseconds that never goes back.
 *
 * Between two calls it advances by the progress of performance.now() or of Date.now(), whichever is larger. Times are
 * comparable in one page or worker only.
 */
export function continuousTime() {
  const monotonic = performance.now();
  const current = Date.now() - monotonic;
  if (current > offset) slept += current - offset;
  if (current > offset || current < offset - CLOCK_TOLERANCE) offset = current;
  return monotonic + slept;
}
