/* A plan for people: what lies where, what moves in a sweep, what binds. Pure. */
#ifndef PS_TOOLS_PLAN_TEXT_H
#define PS_TOOLS_PLAN_TEXT_H
#include "base/json.h"
#include "base/strbuf.h"

void ps_plan_text_write(struct ps_strbuf *b, const struct ps_json *plan); /* contract.md "plan" */
/* The plan's JSON, and with `price_per_gb` > 0 (of 10^9 bytes of traffic, in any currency) what it costs to fill the
 * disk once and each sweep from then on: egress_cost_to_fill, egress_cost_per_sweep. */
int ps_plan_add_price(struct ps_strbuf *out, const char *json, double price_per_gb,
                      struct ps_err *err);
#endif
