// A whole denoising run without Python: denoise FOLDER PICTURE.ppm [SCALE ...]
//
// FOLDER is what export.py wrote. Every step the scheduler chooses the patch size from the last four latents,
// and the transformer that was exported for that size is called. With scales given, one a step, those are
// used instead.
#include <ATen/ops/round.h>
#include <ddit_ext/ddit_ext.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <cstdlib>
#include <exception>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using torch::inductor::AOTIModelPackageLoader;

// What export.py noted: tensors, and settings as text.
struct Run {
  explicit Run(const std::string& folder) : file(folder + "/run.safetensors") {
    std::istringstream all(setting("scales"));
    for (int64_t scale; all >> scale;) scales.push_back(scale);
    for (int64_t call = 0; call < std::stoll(setting("calls")); ++call) {
      conditions.emplace_back();
      std::istringstream names(setting("conditions"));
      int64_t i = 0;
      for (std::string name; names >> name; ++i)
        conditions.back().push_back(tensor("condition." + std::to_string(call) + "." + std::to_string(i)));
    }
  }

  at::Tensor tensor(const std::string& name) const { return ddit::read_tensor(file, name); }
  std::string setting(const std::string& name) const {
    const auto found = file.metadata().find(name);
    if (found == file.metadata().end()) throw std::runtime_error(file.name() + ": metadata lacks " + name);
    return found->second;
  }
  double number(const std::string& name) const { return std::stod(setting(name)); }
  int64_t whole(const std::string& name) const { return std::stoll(setting(name)); }

  ddit::Safetensors file;
  std::vector<int64_t> scales;                      // 1 first
  std::vector<std::vector<at::Tensor>> conditions;  // of each call of a step: one, or two with true CFG
};

// The velocity [B, N, C*p*p] at noise level sigma.
at::Tensor velocity(AOTIModelPackageLoader& transformer, const Run& run, const at::Tensor& latent,
                    const at::Tensor& sigma) {
  std::vector<at::Tensor> of_call;
  for (const auto& conditions : run.conditions) {
    std::vector<at::Tensor> inputs{latent, sigma.expand({latent.size(0)})};
    inputs.insert(inputs.end(), conditions.begin(), conditions.end());
    of_call.push_back(transformer.run(inputs).at(0));
  }
  if (of_call.size() == 1) return of_call[0];
  return of_call[1] + run.number("true_cfg_scale") * (of_call[0] - of_call[1]);
}

// picture [3, H, W] in [0, 1]
void write_ppm(const std::string& path, const at::Tensor& picture) {
  const at::Tensor bytes = at::round(picture * 255).to(at::kByte).permute({1, 2, 0}).contiguous();
  std::ofstream file(path, std::ios::binary);
  file << "P6\n" << picture.size(2) << " " << picture.size(1) << "\n255\n";
  file.write(static_cast<const char*>(bytes.const_data_ptr()), bytes.numel());
  if (!file) throw std::runtime_error("cannot write " + path);
}

void denoise(const std::string& folder, const std::string& picture, const std::vector<int64_t>& fixed) {
  const Run run(folder);
  std::map<int64_t, AOTIModelPackageLoader> transformers;
  for (int64_t scale : run.scales)
    transformers.emplace(scale, folder + "/transformer_" + std::to_string(scale) + ".pt2");

  at::Tensor latent = run.tensor("latent");
  const at::Tensor sigmas = run.tensor("sigmas");  // of each step, then 0
  const int64_t steps = sigmas.size(0) - 1, rows = run.whole("rows"), columns = run.whole("columns");
  if (!fixed.empty() && static_cast<int64_t>(fixed.size()) != steps)
    throw std::runtime_error("expected one scale a step, " + std::to_string(steps) + ", got " +
                             std::to_string(fixed.size()));

  ddit::LatentHistory history;
  ddit::PatchScheduler scheduler(run.scales,
                                 std::vector<double>(run.scales.size() - 1, run.number("threshold")));
  scheduler.begin(steps);
  for (int64_t step = 0; step < steps; ++step) {
    const at::Tensor cells = ddit::cells_from_packed(latent, rows, columns);
    ddit::LatentHistory::Shape sizes, strides;
    for (int64_t i = 0; i < 7; ++i) {
      sizes[i] = cells.size(i);
      strides[i] = cells.stride(i);
    }
    history.push(step, cells.const_data_ptr<float>(), sizes, strides);
    std::vector<std::vector<double>> scores;
    if (history.ready()) scores = history.quantiles(run.scales, run.number("quantile"));
    const int64_t scale = fixed.empty() ? scheduler.decide(step, scores) : fixed[step];

    const auto transformer = transformers.find(scale);
    if (transformer == transformers.end())
      throw std::runtime_error("no transformer was exported for scale " + std::to_string(scale));
    const at::Tensor change = velocity(transformer->second, run, latent, sigmas[step]);
    latent = latent + (sigmas[step + 1] - sigmas[step]) * change;  // FlowMatchEulerDiscreteScheduler
    std::cout << step << " " << std::setprecision(4) << sigmas[step].item<float>() << " " << scale << "\n";
  }
  AOTIModelPackageLoader decoder(folder + "/decoder.pt2");
  write_ppm(picture, decoder.run({latent}).at(0)[0]);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::cerr << "usage: denoise FOLDER PICTURE.ppm [SCALE ...]\n";
    return 2;
  }
  try {
    std::vector<int64_t> fixed;
    for (int i = 3; i < argc; ++i) fixed.push_back(std::atoll(argv[i]));
    denoise(argv[1], argv[2], fixed);
  } catch (const std::exception& error) {
    std::cerr << "denoise: " << error.what() << "\n";
    return 1;
  }
}
