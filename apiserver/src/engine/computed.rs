//! get and list of resources that are found out instead of stored.

use http::Response;
use proto::codec;
use serde_json::json;

use super::{Call, ComputedResource};
use crate::{
    audit::{self, Part},
    negotiation::{Encoding, Form},
    object::Object,
    response::{self, Body},
    status::Status,
    storage::Selection,
};

impl Call {
    /// The one object that the request names.
    pub(super) async fn computed_one(
        &self,
        resource: &dyn ComputedResource,
    ) -> Result<Response<Body>, Status> {
        let name = &self.info.name;
        let found = resource.all().await.into_iter().find(|object| object.name() == name);
        let found = found.ok_or_else(|| Status::not_found(&self.resource.group_resource(), name))?;
        self.respond_object(200, found)
    }

    /// All that are selected.
    pub(super) async fn computed_list(
        &self,
        resource: &dyn ComputedResource,
    ) -> Result<Response<Body>, Status> {
        let selection = self.selection()?;
        let mut objects = resource.all().await;
        objects.retain(|object| is_selected(&selection, object));
        let metadata = json!({});
        let body = if self.media.encoding == Encoding::Protobuf && self.media.form == Form::Object {
            let items = objects.iter().map(Object::to_vec);
            codec::list(&self.info.api_version(), &self.list_kind(), b"{}", items)
                .map_err(Status::internal)?
        } else {
            audit::measured(Part::Serialization, || self.media.encode(&self.list_value(objects, metadata)))?
        };
        Ok(response::of(200, self.media.content_type(), response::full(body)))
    }
}

/// Of such objects only the name can be selected, and labels they do not have.
fn is_selected(selection: &Selection, object: &Object) -> bool {
    let field = |name: &str| if name == "metadata.name" { object.name() } else { "" };
    selection.fields.iter().all(|f| (field(&f.field) == f.value) != f.negate)
        && selection.labels.iter().all(|l| l.matches(None))
}
