// SPDX-License-Identifier: MIT
/// @file  Everything that needs only Eigen and the standard library, but for the thread pool: who wants threads includes
/// ddl/core/thread_pool.hpp.
#pragma once

#include "ddl/core/batch.hpp"
#include "ddl/core/check.hpp"
#include "ddl/core/executor.hpp"
#include "ddl/core/parameters.hpp"
#include "ddl/core/random.hpp"
#include "ddl/core/scalar.hpp"
#include "ddl/model/delta_resnet.hpp"
#include "ddl/nn/activation.hpp"
#include "ddl/nn/linear.hpp"
#include "ddl/nn/mlp.hpp"
#include "ddl/nn/norm.hpp"
#include "ddl/nn/product.hpp"
#include "ddl/op/delta_operator.hpp"
#include "ddl/op/delta_product.hpp"
#include "ddl/op/direction.hpp"
#include "ddl/op/rewrite.hpp"
#include "ddl/residual/block.hpp"
#include "ddl/residual/compressor.hpp"
#include "ddl/residual/gate.hpp"
#include "ddl/residual/value.hpp"
#include "ddl/train/gradient_check.hpp"
#include "ddl/train/loss.hpp"
#include "ddl/train/optimizer.hpp"
#include "ddl/train/schedule.hpp"
