// All of ddit_ext on at::Tensor: the ops, the adapter and a coarse step with it, the scheduler and its
// history. This header and those that say so have torch types; the others are free of torch. Link
// ddit_ext::ddit_ext and ddit_ext::torch.
#pragma once

#include "ddit_ext/adapter.h"  // torch
#include "ddit_ext/budget_policy.h"
#include "ddit_ext/coarse_step.h"  // torch
#include "ddit_ext/forecast_plan.h"
#include "ddit_ext/latent_history.h"
#include "ddit_ext/ops.h"  // torch
#include "ddit_ext/patch_scheduler.h"
#include "ddit_ext/planned_policy.h"
#include "ddit_ext/stacked_policy.h"
#include "ddit_ext/tea_cache_policy.h"
#include "ddit_ext/version.h"
