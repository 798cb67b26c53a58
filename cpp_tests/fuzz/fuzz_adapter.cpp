// Any bytes as an adapter. The input is "<scales>\0<lora_layers>\0<a .safetensors file>": the description
// around the first two is made here, with the right digest, since no mutation would ever find one. Then the
// whole input also as a .safetensors file and as a description by itself.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "ddit_ext/adapter_file.h"
#include "ddit_ext/safetensors.h"

namespace {

void expect(bool condition) {
  if (!condition) std::abort();
}

// Everything that a program may ask of a file that was taken. Errors are FileErrors, whatever the bytes.
void use(const ddit::Safetensors& file) {
  for (const auto& [name, info] : file.tensors()) {
    std::string bytes(info.bytes, '\0');
    file.read(name, bytes.data());
    expect(info.offset + info.bytes <= file.file_bytes());
    try {
      expect(file.floats(name).size() == info.elements());
      file.is_finite(name);
    } catch (const ddit::FileError&) {
    }
  }
}

template <class Call>
void refuse_or_take(const Call& call) {
  try {
    call();
  } catch (const ddit::FileError& error) {
    expect(std::string_view(error.what()).size() < 2000);  // and it doesn't repeat the file
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string input(reinterpret_cast<const char*>(data), size);
  refuse_or_take([&] { use(ddit::Safetensors::from_bytes(input, "file")); });
  const std::string none("\2\0\0\0\0\0\0\0{}", 10);
  refuse_or_take([&] { ddit::AdapterFile(input, ddit::Safetensors::from_bytes(none, "none")); });

  const size_t first = input.find('\0');
  const size_t second = first == std::string::npos ? first : input.find('\0', first + 1);
  if (second == std::string::npos) return 0;
  refuse_or_take([&] {
    const ddit::Safetensors tensors = ddit::Safetensors::from_bytes(input.substr(second + 1), "tensors");
    const std::string description =
        R"({"format": "ddit_ext.adapter", "format_version": 1, "ddit_ext": "0", "base": {"family": "", )"
        R"("config": {}, "weights": {}}, "training": {}, "scales": )" +
        input.substr(0, first) + R"(, "lora_layers": )" + input.substr(first + 1, second - first - 1) +
        R"(, "tensors": {"bytes": )" + std::to_string(tensors.file_bytes()) + R"(, "sha256": ")" +
        tensors.sha256() + "\"}}";
    const ddit::AdapterFile file(description, tensors);
    size_t names = 0;
    for (const ddit::ScaleSpec& spec : file.scales()) names += file.shapes(spec).size();
    expect(names == tensors.tensors().size());
    use(file.tensors());
  });
  return 0;
}
