// What calls give, as plain values.

// All parts of a stream.
export const collect = async (stream) => {
  const parts = [];
  for await (const part of stream) parts.push(part);
  return parts;
};

// The error that a call ends with; null where it ends well.
export const failure = async (promise) => {
  try {
    await promise;
    return null;
  } catch (error) {
    return { name: error.name, status: error.status_code ?? null, message: error.message };
  }
};
