SwaggerUIBundle({
  url: "api-doc/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  // The page may load nothing but its own files, so no validator elsewhere is asked.
  validatorUrl: null,
});
