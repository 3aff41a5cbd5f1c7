// MNIST: handwritten digits.
#include "backstop/plugin.hpp"
#include "shared/idx/idx.hpp"

namespace {

constexpr backstop::idx::Description kMnist = {
    "mnist",
    "MNIST/raw",
    "set `root` to the folder with MNIST's four IDX files (train-images-idx3-ubyte.gz ...)",
    {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"},
    0.1307,
    0.3081,
    {"f68b3c2dcbeaaa9fbdd348bbdeb94873", "d53e105ee54ea40749a09fcbcd1e9432"},
    {"9fb629c4189551a2d022fa330f9573f3", "ec29112dd5afa0611ce80d1b7f02629c"}};

class Mnist final : public backstop::idx::IdxDataset {
 public:
  explicit Mnist(const backstop::Params& params) : IdxDataset(params, kMnist) {}
};

}  // namespace

BACKSTOP_PLUGIN(Dataset, Mnist)
