// Any bytes as an adapter (see adapter_input.h), as a .safetensors file and as a description by itself.
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>

#include "adapter_input.h"
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

  refuse_or_take([&] {
    const std::optional<ddit::AdapterFile> taken = ddit_test::adapter_of(input);
    if (!taken) return;
    const ddit::AdapterFile& file = *taken;
    size_t names = 0;
    for (const ddit::ScaleSpec& spec : file.scales()) names += file.shapes(spec).size();
    expect(names == file.tensors().tensors().size());
    use(file.tensors());
  });
  return 0;
}
